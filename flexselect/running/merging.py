"""Merge text and visual tokens into the decoder's input, with deepstack.

Deepstack adds visual features to the hidden states of the first decoder layers at the visual tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from flexselect.structures.layout import Layout
from flexselect.structures.prompt import EncodedVideo, Selection


def merge_embeddings(
    embed: Callable[[Tensor], Tensor], ids: Tensor, visual: Tensor, features: Tensor
) -> tuple[Tensor, dict[str, Any]]:
    """Merge text embeddings and visual tokens.

    Args:
        embed: maps ids [...] to embeddings [..., D].
        ids: [B, n]; ids at visual tokens are ignored.
        visual: true for visual tokens, bool [n], the same for the whole batch; on the CPU.
        features: visual tokens [B, v, D]; or [B, v, (1 + E) * D], with the features for E decoder layers.

    Returns:
        Embeddings [B, n, D], and the decoder's keyword arguments for deepstack, empty if E = 0.
    """
    ids, device = ids.to(features.device), features.device
    # Indices from the CPU's mask: a GPU would have to be waited for, to count its own.
    text_places, visual_places = ((~visual).nonzero().flatten().to(device), visual.nonzero().flatten().to(device))
    text = embed(ids[:, text_places])
    width = text.shape[-1]
    merged = text.new_empty(*ids.shape, width)
    merged[:, text_places] = text
    merged[:, visual_places] = features[..., :width].to(merged)
    if features.shape[-1] == width:
        return merged, {}
    layers = features[..., width:].reshape(-1, features.shape[-1] // width - 1, width)  # [B * v, E, D]
    mask = visual.to(device).expand(len(ids), -1)
    return merged, {"visual_pos_masks": mask, "deepstack_visual_embeds": list(layers.unbind(1))}


def after(length: int, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the decoder's input after its first `length` places.

    Args:
        length: below n.
        inputs: of one prompt of n tokens, see `VideoLM.assemble`.
    """
    rest = {name: inputs[name][..., length:] for name in ("input_ids", "position_ids", "attention_mask")}
    deepstack = {}
    if inputs["deepstack"]:
        mask, levels = inputs["deepstack"]["visual_pos_masks"], inputs["deepstack"]["deepstack_visual_embeds"]
        known = int(mask[:, :length].sum())
        deepstack = {"visual_pos_masks": mask[:, length:], "deepstack_visual_embeds": [x[known:] for x in levels]}
    return {**rest, "inputs_embeds": inputs["inputs_embeds"][:, length:], "deepstack": deepstack}


@contextmanager
def deepstack_hooks(decoder: nn.Module, inputs: dict[str, Any]) -> Iterator[None]:
    """Pass deepstack features to a model's decoder at prefill; the whole model accepts pixels only.

    The hook removes itself at the prefill: with it, decoding would be compiled again for each question.
    """
    if not inputs:
        yield
        return

    def add(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        hook.remove()
        return args, kwargs | inputs

    hook = decoder.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def whole_prompt(lm: Any, encoded: EncodedVideo, query_ids: Tensor) -> tuple[Layout, Tensor]:
    """Lay out a prompt with all N tokens, and compute their positions, int64 [P, N]; any tokens of it may be kept."""
    layout = encoded.layout(query_ids, lm.visual_id)
    return layout, lm.position_ids(layout, encoded.grid, encoded.seconds_per_unit)


def kept_inputs(
    lm: Any, encoded: EncodedVideo, whole: tuple[Layout, Tensor], selection: Selection | None, positions: str
) -> dict[str, Any]:
    """Make the LLM's input from a whole prompt; see `VideoLM.assemble`, which calls this with itself as `lm`."""
    layout, position_ids = whole
    keep, features = torch.ones_like(layout.visual), encoded.features
    if selection is not None:
        keep = layout.kept_mask(selection.kept, selection.shift)
        features = encoded.take(keep[layout.visual].nonzero().flatten())
    features = features.to(lm.device)
    position_ids = position_ids[:, keep].to(lm.device)  # [P, n]
    if positions == "compact":
        position_ids = torch.arange(position_ids.shape[1], device=lm.device).expand(position_ids.shape[0], -1)
    ids = layout.ids[keep][None].to(lm.device)
    embeddings, deepstack = merge_embeddings(lm.embed, ids, layout.visual[keep], features[None])
    return {
        "input_ids": ids,
        "inputs_embeds": embeddings,
        "position_ids": position_ids[:, None] if len(position_ids) > 1 else position_ids,
        "attention_mask": torch.ones_like(ids),
        "deepstack": deepstack,
    }
