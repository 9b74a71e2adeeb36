"""Text and visual tokens as a decoder takes them, deepstack included.

Deepstack: visual features that are added to the hidden states of the first decoder layers, at visual tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


def merged(
    embed: Callable[[Tensor], Tensor], ids: Tensor, visual: Tensor, features: Tensor
) -> tuple[Tensor, dict[str, Any]]:
    """Text and visual tokens together.

    Args:
        embed: ids [...] to embeddings [..., D].
        ids: [B, n]; what stands at visual tokens is not looked at.
        visual: which are visual tokens, bool [n], the same for the whole batch.
        features: of those, [B, v, D]; or [B, v, (1 + E) * D], the embedding and what E decoder layers add.

    Returns:
        Embeddings [B, n, D], and the decoder's keywords for deepstack; none where E = 0.
    """
    visual, ids = visual.to(features.device), ids.to(features.device)
    text = embed(ids[:, ~visual])
    width = text.shape[-1]
    both = text.new_empty(*ids.shape, width)
    both[:, ~visual] = text
    both[:, visual] = features[..., :width].to(both)
    if features.shape[-1] == width:
        return both, {}
    layers = features[..., width:].reshape(-1, features.shape[-1] // width - 1, width)  # [B * v, E, D]
    return both, {"visual_pos_masks": visual.expand(len(ids), -1), "deepstack_visual_embeds": list(layers.unbind(1))}


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
