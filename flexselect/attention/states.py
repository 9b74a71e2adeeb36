"""States of the layers after the first tokens of a prompt, which several questions go on from.

An attention layer keeps keys and values of every token. A recurrent layer (Gated DeltaNet of Qwen3.5) keeps a state of
fixed size, however many tokens it has seen: it can be continued, but not cut back to fewer tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionLayer

from flexselect.attention.layers import is_hybrid


class KeysValues(NamedTuple):
    """The states of an attention layer."""

    keys: Tensor  # [B, H_kv, n, d]
    values: Tensor  # [B, H_kv, n, d]


class Recurrent(NamedTuple):
    """The states of a recurrent layer after n tokens."""

    convolved: Tensor  # [B, C, k], the last inputs of its causal convolution
    memory: Tensor  # [B, H, d_k, d_v], float32


Past = list[KeysValues | Recurrent]  # the states of each layer, from the first

ROOM, ROOM_SHARE = 256, 8  # rows behind the states for a question's own, at most, and at most this part of n


def empty_cache(config: Any) -> DynamicCache:
    """Make an empty cache of transformers for the layers of a text model, given its configuration."""
    return DynamicCache(config=config) if is_hybrid(config) else DynamicCache()


def states_in(cache: DynamicCache, count: int) -> Past:
    """Return the states of the first `count` layers of a cache."""

    def states(layer: Any) -> KeysValues | Recurrent:
        if isinstance(layer, LinearAttentionLayer):
            states_by_number: Any = layer.conv_states, layer.recurrent_states  # a layer may have several; ours have one
            return Recurrent(*(held[0] for held in states_by_number))
        return KeysValues(layer.keys, layer.values)

    return [states(layer) for layer in cache.layers[:count]]


def length_of(past: Past) -> int:
    """Return n, the number of tokens that were seen."""
    return next(states.keys.shape[2] for states in past if isinstance(states, KeysValues))


def first_tokens(past: Past, length: int) -> Past:
    """Cut the states of attention layers back to fewer tokens: views."""
    return [KeysValues(keys[:, :, :length], values[:, :, :length]) for keys, values in past]


def cache_of(past: Past, use_room: bool = False, copies: int = 1) -> DynamicCache:
    """Wrap states in a cache of transformers. The decoder goes on from copies, so `past` stays unchanged.

    Args:
        past: the states.
        use_room: whether new states may be written behind those of `join`, which saves the copy. Until they are
            used, no other forward pass may go on from `past`.
        copies: how many prompts of a batch go on from the same states, [1, ...].
    """
    cache = DynamicCache()
    layers: list[Any] = cache.layers
    for states in past:
        first, second = (x if copies == 1 else x.expand(copies, *x.shape[1:]) for x in states)
        if isinstance(states, Recurrent):
            layers.append(_recurrent_layer(first, second))
            continue
        layer = _LayerWithRoom() if use_room else DynamicLayer()
        layer.lazy_initialization(first, second)
        layer.keys, layer.values = first, second
        layers.append(layer)
    return cache


def _recurrent_layer(convolved: Tensor, memory: Tensor) -> LinearAttentionLayer:
    layer = LinearAttentionLayer()
    layer.update_conv_state(convolved)  # both are copied: the layer changes them in place
    layer.update_recurrent_state(memory)
    return layer


def join(batches: Sequence[Past]) -> Past:
    """Join the states of several batches, and leave room behind them.

    The batches are emptied layer by layer, so that memory holds one layer twice, not all.

    Args:
        batches: states of equal length n.
    """
    joined: Past = []
    while batches[0]:
        firsts, seconds = zip(*(layers := [past.pop(0) for past in batches]))
        if isinstance(layers[0], Recurrent):
            joined.append(Recurrent(torch.cat(firsts), torch.cat(seconds)))
        else:
            joined.append(KeysValues(_with_room(firsts), _with_room(seconds)))
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
