"""The states of frame sets before the question. With them, a later question runs only its query rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from flexselect.attention.states import KeysValues, Past, Recurrent
from flexselect.structures.layout import Layout


@dataclass(frozen=True)
class FrameSet:
    """Units of one video that are scored together."""

    video: int  # number of the video in the batch
    tokens: Tensor  # int64 [v], indices of the set's visual tokens in the video
    layout: Layout  # prefix, units and query


@dataclass(frozen=True)
class PrefixCache:
    """Frame sets of equal shape, with their states up to the reference layer, without a question."""

    sets: list[FrameSet]
    grid: tuple[int, int, int]  # units, rows and columns of each set
    positions: Tensor  # int64 [S, R] or [P, S, R], positions of the first R tokens after the last visual one
    past: Past  # states of the sets in one batch

    @cached_property
    def span(self) -> slice:
        """The range from the first visual token to the last, in each set."""
        return self.sets[0].layout.span

    @cached_property
    def places(self) -> Tensor:
        """The places of the visual tokens in `span`, the same in all sets: int64 [v]."""
        return self.sets[0].layout.places

    @cached_property
    def tokens(self) -> Tensor:
        """The visual tokens of all sets: int64 [S * v]."""
        return torch.cat([s.tokens for s in self.sets])

    @cached_property
    def tails(self) -> Tensor:
        """The text between the last visual token and the question: int64 [S, t]."""
        return torch.stack([s.layout.ids[self.span.stop :] for s in self.sets])

    @property
    def num_bytes(self) -> int:
        """Bytes of all states."""
        return sum(state.nbytes for states in self.past for state in states)

    def to(self, device: torch.device | str) -> PrefixCache:
        """Return a copy with the states on `device`."""
        return self.to_layers([torch.device(device)] * len(self.past))

    def to_layers(self, devices: Sequence[torch.device]) -> PrefixCache:
        """Return a copy with the states of each layer on the device of that layer, unless all are there."""
        if all(state.device == device for states, device in zip(self.past, devices) for state in states):
            return self
        moved = [type(states)(*(state.to(device) for state in states)) for states, device in zip(self.past, devices)]
        return replace(self, past=moved)


def named_states(parts: Iterable[PrefixCache]) -> dict[str, Tensor]:
    """Name states as in a session file."""
    return {
        f"states.{p}.{layer}.{name}": state
        for p, part in enumerate(parts)
        for layer, states in enumerate(part.past)
        for name, state in states._asdict().items()
    }


def fill_prefix_caches(layouts: Iterable[PrefixCache], states: Mapping[str, Tensor]) -> list[PrefixCache]:
    """Fill prefix caches with the states of a session file; the inverse of `named_states`.

    Raises:
        KeyError: if the file lacks states of a layer.
    """
    depth = len({name.split(".")[2] for name in states})

    def of_layer(p: int, layer: int) -> KeysValues | Recurrent:
        start = f"states.{p}.{layer}."
        kind = Recurrent if f"{start}memory" in states else KeysValues
        return kind(*(states[start + name] for name in kind._fields))

    return [replace(layout, past=[of_layer(p, layer) for layer in range(depth)]) for p, layout in enumerate(layouts)]
