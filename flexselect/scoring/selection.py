"""Select tokens by their scores: top-k per frame set, merged in the order of the video. Needs no model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flexselect.structures.prompt import Selection


def select(scores: Tensor, sets: list[Tensor], budgets: Sequence[int]) -> Selection:
    """Keep the best tokens of each set (FlexSelect, section 3.2).

    Args:
        scores: [V], one score per visual token.
        sets: S disjoint index tensors [*] into the scores.
        budgets: number of tokens to keep per set; at most the set's size.

    Returns:
        The selection; `kept` is strictly ascending. Among equal scores the earlier token is kept, on every device.

    Raises:
        ValueError: if a score is NaN.
    """
    if torch.isnan(scores).any():
        count = int(torch.isnan(scores).sum())
        raise ValueError(
            f"{count} of {scores.numel()} token scores are NaN. The model overflowed in {scores.dtype}: "
            "load it in bfloat16 or float32, and check that its weights are finite."
        )
    on_device = [tokens.to(scores.device) for tokens in sets]
    kept = [tokens[_top(scores[tokens], k)] for tokens, k in zip(on_device, budgets)]
    return Selection(scores=scores.float(), kept=torch.cat(kept).sort().values, sets=sets)


def _top(scores: Tensor, k: int) -> Tensor:
    """Return the indices of the k largest scores; a stable sort, because topk breaks ties differently per device."""
    return scores.sort(descending=True, stable=True).indices[:k]
