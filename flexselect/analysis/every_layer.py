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

from flexselect.attention import use_attention, visual_attention

EVERY = "flexselect_every_layer"  # the attention function's name in transformers


def _watched(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, watch: Watch, **kwargs: Any
) -> tuple[Tensor, None]:
    rows = query[:, :, -watch.query_rows :]
    with torch.autocast(query.device.type, enabled=False):
        reduced = [visual_attention(rows, key, watch.visual, kwargs["scaling"], name) for name in watch.reductions]
    watch.scores.append(torch.stack(reduced))
    return sdpa_attention_forward(module, query, key, value, mask, **kwargs)


AttentionInterface.register(EVERY, _watched)
AttentionMaskInterface.register(EVERY, sdpa_mask)


class Watch:
    """The computation at each layer. It reaches the attention function as a keyword of the forward pass.

    Args:
        query_rows: Q, the last positions of the sequence.
        visual: range of the visual tokens.
        reductions: any of "max" and "mean", over heads and query rows.
    """

    def __init__(self, query_rows: int, visual: slice, reductions: Sequence[str]) -> None:
        self.query_rows, self.visual, self.reductions = query_rows, visual, tuple(reductions)
        self.scores: list[Tensor] = []  # per layer: float32 [R, B, V]


@torch.inference_mode()
def layer_scores(
    decoder: PreTrainedModel, embeddings: Tensor, position_ids: Tensor, watch: Watch, **more: Any
) -> Tensor:
    """Score the visual tokens at every layer of a decoder.

    Args:
        decoder: the text model, without its head; it runs unmodified, once.
        embeddings: [B, N, D].
        position_ids: [B, N], or [3, B, N] for M-RoPE.
        watch: rows, tokens and reductions.
        more: keyword arguments of the decoder, for deepstack.

    Returns:
        float32 [layers, R, B, V] for R reductions, in the order of `watch`.
    """
    ones = torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device)
    inputs = {"inputs_embeds": embeddings, "position_ids": position_ids, "attention_mask": ones}
    with use_attention(decoder, EVERY):
        decoder(**inputs, use_cache=False, watch=watch, **more)
    return torch.stack([scores.to(embeddings.device) for scores in watch.scores])


@torch.inference_mode()
def layer_states(
    decoder: PreTrainedModel, assembled: dict[str, Any], groups: Mapping[str, Tensor], most: int = 1500
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return hidden states of some tokens at every layer of a decoder, from one forward pass.

    Args:
        decoder: the text model, without its head; it runs unmodified.
        assembled: a prompt of N tokens, the output of `VideoLM.assemble`.
        groups: tokens by name, bool [N] each.
        most: maximum number of tokens per group; a larger group is sampled evenly, to save memory.

    Returns:
        float32 [layers + 1, n, D] on the CPU, embeddings first; and the indices below n of each group, int64 [*].
    """
    places, indices_by_group, first = [], {}, 0
    for name, mask in groups.items():
        every = mask.nonzero().flatten()
        places.append(every[:: -(-len(every) // most) or 1])
        indices_by_group[name] = torch.arange(first, first := first + len(places[-1]))
    some = torch.cat(places)
    states = [assembled["inputs_embeds"][0, some.to(assembled["inputs_embeds"].device)]]

    def keep(layer: nn.Module, inputs: tuple, output: Any) -> None:
        every = output if isinstance(output, Tensor) else output[0]
        states.append(every[0, some.to(every.device)])

    layers: Any = decoder.layers
    hooks = [layer.register_forward_hook(keep) for layer in layers]
    try:
        inputs = {name: assembled[name] for name in ("inputs_embeds", "position_ids", "attention_mask")}
        decoder(**inputs, **assembled["deepstack"], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack([each.float().cpu() for each in states]), indices_by_group


def recall_at(scores: Tensor, needle: Tensor) -> Tensor:
    """Return the share of a needle's K tokens among the K best: 1 if all are there, K / V by chance.

    Args:
        scores: [..., V].
        needle: indices of the needle's tokens, int64 [K].

    Returns:
        float32 [...].
    """
    best = scores.topk(len(needle), dim=-1).indices
    return torch.isin(best, needle.to(best.device)).float().mean(-1)
