"""Run the windows of a vision tower in a few attention calls. transformers makes one call per window and layer.

Qwen's towers attend within windows, or within one time step, of a long row of patches. For flash-attention,
transformers passes the window boundaries; for SDPA, it cuts the row and runs one small call per window: thousands per
clip. An attention function with "flash" in its name gets the boundaries too; this one batches windows of equal length.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

BATCHED = "flexselect_windows_flash"  # the attention function's name in transformers


def batched_windows(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Compute attention within windows.

    Args:
        module: an attention module of the tower.
        query: [1, H, N, d].
        key: [1, H, N, d].
        value: [1, H, N, d].
        mask: unused; these towers have none.
        kwargs: `scaling`, and `cu_seq_lens_q` int [windows + 1]: the start of each window and the end of the last.

    Returns:
        [1, N, H, d], and None instead of attention weights.
    """
    cuts = kwargs.get("cu_seq_lens_q")
    if cuts is None:  # transformers has cut the row already
        out, _ = sdpa_attention_forward(module, query, key, value, mask, **kwargs)
        return out, None
    result = torch.empty_like(query.transpose(1, 2))  # [1, N, H, d]
    for rows in _rows_by_length(cuts):
        q, k, v = (states[0][:, rows].transpose(0, 1) for states in (query, key, value))  # [windows, H, length, d]
        attended = scaled_dot_product_attention(q, k, v, scale=kwargs.get("scaling"))
        result[0, rows] = attended.transpose(1, 2)
    return result, None


@lru_cache(maxsize=4)  # all layers of a forward pass get the same tensors
def _rows_by_length(cuts: Tensor) -> list[Tensor]:
    """Group windows of equal length; return their rows, int64 [windows, length] per group."""
    cuts_on_cpu = cuts.cpu()
    lengths, begins = cuts_on_cpu.diff(), cuts_on_cpu[:-1]
    rows = [begins[lengths == length, None] + torch.arange(length) for length in lengths.unique().tolist()]
    return [group.to(cuts.device) for group in rows]


AttentionInterface.register(BATCHED, batched_windows)


def batch_windows(tower: PreTrainedModel) -> None:
    """Set the attention function of a tower that would use SDPA to `batched_windows`."""
    if tower.config._attn_implementation == "sdpa":
        tower.config._attn_implementation_internal = BATCHED
