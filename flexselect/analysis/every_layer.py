"""Scores of every layer in one forward pass: which layer attends to what the question asks for (section 3.1).

If no reference layer was published for a model, the layer that recalls needles best is used: see `recall_at`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from flexselect.attention.kernels import attention_kernels
from flexselect.attention.probe import use_attention, visual_attention

SCORED = "flexselect_every_layer"  # the attention function's name in transformers


def _scored_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    probe: EveryLayerProbe,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Add the layer's scores to the probe, and compute attention with SDPA."""
    rows = query[:, :, -probe.query_rows :]
    with torch.autocast(query.device.type, enabled=False):
        reduced = [visual_attention(rows, key, probe.visual, kwargs["scaling"], name) for name in probe.reductions]
    probe.scores.append(torch.stack(reduced))
    return sdpa_attention_forward(module, query, key, value, mask, **kwargs)


AttentionInterface.register(SCORED, _scored_attention)
AttentionMaskInterface.register(SCORED, sdpa_mask)


class EveryLayerProbe:
    """The scores to compute at each layer, and the results. The forward pass hands it to the attention function.

    Args:
        query_rows: Q, the last positions of the sequence.
        visual: range of the visual tokens.
        reductions: "max", "mean" or both, over heads and query rows.
    """

    def __init__(self, query_rows: int, visual: slice, reductions: Sequence[str]) -> None:
        self.query_rows, self.visual, self.reductions = query_rows, visual, tuple(reductions)
        self.scores: list[Tensor] = []  # per layer with attention: float32 [R, B, V]


@torch.inference_mode()
def layer_scores(
    decoder: PreTrainedModel, embeddings: Tensor, position_ids: Tensor, probe: EveryLayerProbe, **deepstack: Any
) -> Tensor:
    """Score the visual tokens at every layer of a decoder that has attention.

    Args:
        decoder: the text model, without its head; it runs once and is not modified.
        embeddings: [B, N, D].
        position_ids: [B, N], or [3, B, N] for M-RoPE.
        probe: query rows, visual tokens and reductions; it must be new.
        deepstack: the decoder's keyword arguments for deepstack.

    Returns:
        float32 [layers, R, B, V] for the R reductions of the probe.
    """
    ones = torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device)
    inputs = {"inputs_embeds": embeddings, "position_ids": position_ids, "attention_mask": ones}
    with attention_kernels(), use_attention(decoder, SCORED):
        decoder(**inputs, use_cache=False, probe=probe, **deepstack)
    return torch.stack([scores.to(embeddings.device) for scores in probe.scores])


@torch.inference_mode()
def layer_states(
    decoder: PreTrainedModel, assembled: dict[str, Any], groups: Mapping[str, Tensor], max_tokens: int = 1500
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return hidden states of some tokens at every layer of a decoder, from one forward pass.

    Args:
        decoder: the text model, without its head; it is not modified.
        assembled: a prompt of N tokens, the output of `VideoLM.assemble`.
        groups: which tokens belong to a group, bool [N] each, by name of the group.
        max_tokens: maximum number of tokens per group; a larger group is sampled evenly, to save memory.

    Returns:
        float32 [layers + 1, n, D] on the CPU, embeddings first; and the indices below n of each group, int64 [*].
    """
    sampled, indices_by_group, first = [], {}, 0
    for name, mask in groups.items():
        places = mask.nonzero().flatten()
        sampled.append(places[:: -(-len(places) // max_tokens) or 1])
        indices_by_group[name] = torch.arange(first, first := first + len(sampled[-1]))
    tokens = torch.cat(sampled)  # [n]
    states = [assembled["inputs_embeds"][0, tokens.to(assembled["inputs_embeds"].device)]]

    def keep(layer: nn.Module, inputs: tuple, output: Any) -> None:
        hidden = output if isinstance(output, Tensor) else output[0]  # [1, N, D]
        states.append(hidden[0, tokens.to(hidden.device)])

    layers: Any = decoder.layers
    hooks = [layer.register_forward_hook(keep) for layer in layers]
    try:
        inputs = {name: assembled[name] for name in ("inputs_embeds", "position_ids", "attention_mask")}
        decoder(**inputs, **assembled["deepstack"], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack([layer_state.float().cpu() for layer_state in states]), indices_by_group


def recall_at(scores: Tensor, needle: Tensor) -> Tensor:
    """Return the share of a needle's K tokens that are among the K best of V tokens; K / V by chance.

    Args:
        scores: [..., V].
        needle: indices of the needle's tokens, int64 [K].

    Returns:
        float32 [...].
    """
    best = scores.topk(len(needle), dim=-1).indices
    return torch.isin(best, needle.to(best.device)).float().mean(-1)
