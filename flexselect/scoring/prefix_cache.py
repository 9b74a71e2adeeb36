"""Frame sets, and what of their scoring no question changes: kept, a second question costs its own rows alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flexselect.attention import Past
from flexselect.structures.layout import Layout


@dataclass(frozen=True)
class FrameSet:
    """Units of one video that are scored together, with the query."""

    video: int
    tokens: Tensor  # int64 [v], which of its visual tokens
    layout: Layout


@dataclass(frozen=True)
class PrefixCache:
    """Frame sets of one form, run up to the reference layer without a question."""

    sets: list[FrameSet]
    grid: tuple[int, int, int]  # of each
    past: Past  # side by side

    @property
    def num_bytes(self) -> int:
        """Of all keys and values."""
        return sum(state.nbytes for states in self.past for state in states)

    def to(self, device: torch.device | str) -> PrefixCache:
        """A copy whose keys and values lie on `device`."""
        return replace(self, past=[(keys.to(device), values.to(device)) for keys, values in self.past])


def named_states(parts: Iterable[PrefixCache]) -> dict[str, Tensor]:
    """Keys and values by name, as a file holds them."""
    return {
        f"states.{p}.{layer}.{name}": state
        for p, part in enumerate(parts)
        for layer, states in enumerate(part.past)
        for name, state in zip(("keys", "values"), states)
    }


def with_states(forms: Iterable[PrefixCache], states: Mapping[str, Tensor]) -> list[PrefixCache]:
    """The inverse: frame sets with the keys and values of a file.

    Raises:
        KeyError: if some are not there.
    """
    depth = len({name.split(".")[2] for name in states})

    def of_layer(p: int, layer: int) -> tuple[Tensor, Tensor]:
        return states[f"states.{p}.{layer}.keys"], states[f"states.{p}.{layer}.values"]

    return [replace(form, past=[of_layer(p, layer) for layer in range(depth)]) for p, form in enumerate(forms)]
