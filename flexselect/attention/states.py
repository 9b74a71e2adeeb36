"""Keys and values of the first tokens of a prompt, which several questions go on from."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

Past = list[tuple[Tensor, Tensor]]  # keys and values [B, H_kv, n, d] of each layer, from the first

ROOM, ROOM_SHARE = 256, 8  # rows behind the states for a question's own, at most, and at most this part of n


def cache_of(past: Past, use_room: bool = False, copies: int = 1) -> DynamicCache:
    """Wrap keys and values in a cache of transformers. The decoder appends to copies, so `past` stays unchanged.

    Args:
        past: the states.
        use_room: whether new states may be written behind those of `join`, which saves the copy. Until they are
            used, no other forward pass may go on from `past`.
        copies: how many prompts of a batch go on from the same states, [1, ...].
    """
    cache = DynamicCache()
    for keys, values in past:
        layer = _LayerWithRoom() if use_room else DynamicLayer()
        if copies > 1:
            keys, values = (states.expand(copies, -1, -1, -1) for states in (keys, values))
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


def join(batches: Sequence[Past]) -> Past:
    """Join the states of several batches, and leave room behind them.

    The batches are emptied layer by layer, so that memory holds one layer twice, not all.

    Args:
        batches: states of equal length n.
    """
    joined = []
    while batches[0]:
        layers = [past.pop(0) for past in batches]
        joined.append((_with_room([keys for keys, _ in layers]), _with_room([values for _, values in layers])))
    return joined


def cache_keyword(model: nn.Module) -> str:
    """Return the name of a model's cache argument: `cache` since transformers 5.24, before `past_key_values`."""
    kind: Any = type(model)  # mypy takes a module's class for unhashable
    return _cache_keyword(kind)


@functools.cache
def _cache_keyword(kind: Any) -> str:
    return "cache" if "cache" in signature(kind.forward).parameters else "past_key_values"


class _LayerWithRoom(DynamicLayer):
    """A layer of a cache that writes new states behind the old ones, if `join` left enough room."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append the states of Q tokens, [B, H_kv, Q, d] each; return all of them."""
        assert self.keys is not None and self.values is not None
        if min(_free_rows(self.keys), _free_rows(self.values)) < key_states.shape[2]:
            return super().update(key_states, value_states, *args, **kwargs)
        self.keys, self.values = _append(self.keys, key_states), _append(self.values, value_states)
        return self.keys, self.values


def _with_room(states: Sequence[Tensor]) -> Tensor:
    """Concatenate states [*, H_kv, n, d] in a larger tensor; return the part that they fill."""
    count, (_, heads, length, width) = sum(len(part) for part in states), states[0].shape
    room = min(ROOM, length // ROOM_SHARE)
    whole = states[0].new_empty(count, heads, length + room, width)[:, :, :length]
    return torch.cat(list(states), out=whole) if len(states) > 1 else whole.copy_(states[0])


def _free_rows(states: Tensor) -> int:
    """Return how many rows are free behind states that `_with_room` made; 0 for any other tensor."""
    stored, (batch, heads, *_) = states.untyped_storage().nbytes() // states.element_size(), states.shape
    if states.storage_offset() or stored != batch * heads * states.stride(1):
        return 0  # a part of a tensor that holds other prompts or heads too
    return states.stride(1) // states.stride(2) - states.shape[2]


def _append(states: Tensor, new: Tensor) -> Tensor:
    batch, heads, length, width = states.shape
    longer = states.as_strided((batch, heads, length + new.shape[2], width), states.stride())
    longer[:, :, length:] = new
    return longer
