"""Deepstack: visual features that are added to the hidden states of the first decoder layers, at visual tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


def deepstack_inputs(visual: Tensor, features: Tensor, width: int) -> dict[str, Any]:
    """What the decoder takes for them, cut to the tokens that are there.

    Args:
        visual: which places are visual tokens, bool [B, N].
        features: of those tokens, [*, (1 + E) * D]: the embedding, then what E layers add.
        width: D.

    Returns:
        Keywords of the decoder; none for a model without deepstack, E = 0.
    """
    if features.shape[-1] == width:
        return {}
    layers = features[..., width:].reshape(-1, features.shape[-1] // width - 1, width)  # [*, E, D]
    return {"visual_pos_masks": visual, "deepstack_visual_embeds": list(layers.unbind(1))}


@contextmanager
def deepstacked(decoder: nn.Module, inputs: dict[str, Any]) -> Iterator[None]:
    """Hand them to a decoder inside a whole model, which takes them from pixels only; on the prefill alone."""
    if not inputs:
        yield
        return
    prefill = inputs["visual_pos_masks"].shape

    def add(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, kwargs | inputs if kwargs["inputs_embeds"].shape[:2] == prefill else kwargs

    hook = decoder.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
