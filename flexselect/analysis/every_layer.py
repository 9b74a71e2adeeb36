"""Scores of every layer in one forward pass: where in a decoder the question finds what it asks for (section 3.1).

The reference layer of a model that none was published for is the layer that recalls a needle best: see `recall_at`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from flexselect.attention import attending, visual_attention

EVERY = "flexselect_every_layer"  # the attention function's name in transformers


def _watched(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, watch: Watch, **kwargs: Any
) -> tuple[Tensor, None]:
    rows = query[:, :, -watch.query_rows :]
    with torch.autocast(query.device.type, enabled=False):
        found = [visual_attention(rows, key, watch.visual, kwargs["scaling"], name) for name in watch.reductions]
    watch.scores.append(torch.stack(found))
    return sdpa_attention_forward(module, query, key, value, mask, **kwargs)


AttentionInterface.register(EVERY, _watched)
AttentionMaskInterface.register(EVERY, sdpa_mask)


class Watch:
    """What to read at each layer; travels to the attention function as a keyword of the forward pass.

    Args:
        query_rows: Q, the last positions of the sequence.
        visual: where the visual tokens stand.
        reductions: "max", "mean", over heads and query rows.
    """

    def __init__(self, query_rows: int, visual: slice, reductions: Sequence[str]) -> None:
        self.query_rows, self.visual, self.reductions = query_rows, visual, tuple(reductions)
        self.scores: list[Tensor] = []  # a layer each: float32 [R, B, V]


@torch.inference_mode()
def layer_scores(
    decoder: PreTrainedModel, embeddings: Tensor, position_ids: Tensor, watch: Watch, **more: Any
) -> Tensor:
    """Scores of the visual tokens at every layer of a decoder.

    Args:
        decoder: the text model, without its head; it runs unmodified, once.
        embeddings: [B, N, D].
        position_ids: [B, N], or [3, B, N] for M-RoPE.
        watch: what to read.
        more: keywords of the decoder, for deepstack.

    Returns:
        float32 [layers, R, B, V], R reductions in the order of `watch`.
    """
    ones = torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device)
    given = {"inputs_embeds": embeddings, "position_ids": position_ids, "attention_mask": ones}
    with attending(decoder, EVERY):
        decoder(**given, use_cache=False, watch=watch, **more)
    return torch.stack([scores.to(embeddings.device) for scores in watch.scores])


@torch.inference_mode()
def layer_states(
    decoder: PreTrainedModel, given: dict[str, Any], groups: Mapping[str, Tensor], most: int = 1500
) -> tuple[Tensor, dict[str, Tensor]]:
    """Hidden states of some tokens at every layer of a decoder, in one forward pass.

    Args:
        decoder: the text model, without its head; it runs unmodified.
        given: a prompt of N tokens, see `VideoLM.assemble`.
        groups: tokens by name, bool [N] each.
        most: tokens of a group; of a larger one so many, evenly spread: memory holds no others.

    Returns:
        float32 [layers + 1, n, D] on the CPU, the embeddings first; and which of the n are of each group, int64 [*].
    """
    places, found, first = [], {}, 0
    for name, which in groups.items():
        every = which.nonzero().flatten()
        places.append(every[:: -(-len(every) // most) or 1])
        found[name] = torch.arange(first, first := first + len(places[-1]))
    some = torch.cat(places)
    states = [given["inputs_embeds"][0, some.to(given["inputs_embeds"].device)]]

    def keep(layer: nn.Module, inputs: tuple, output: Any) -> None:
        every = output if isinstance(output, Tensor) else output[0]
        states.append(every[0, some.to(every.device)])

    layers: Any = decoder.layers
    hooks = [layer.register_forward_hook(keep) for layer in layers]
    try:
        inputs = {name: given[name] for name in ("inputs_embeds", "position_ids", "attention_mask")}
        decoder(**inputs, **given["deepstack"], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack([each.float().cpu() for each in states]), found


def recall_at(scores: Tensor, needle: Tensor) -> Tensor:
    """Share of a needle's K tokens that are among the K best: 1 when all are, K / V by chance.

    Args:
        scores: [..., V].
        needle: which tokens, int64 [K].

    Returns:
        float32 [...].
    """
    best = scores.topk(len(needle), dim=-1).indices
    return torch.isin(best, needle.to(best.device)).float().mean(-1)
