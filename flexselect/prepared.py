"""Frame sets, and what of their scoring no question changes: kept, a second question costs its own rows alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flexselect.attention import Past
from flexselect.layout import Layout


@dataclass(frozen=True)
class FrameSet:
    """Units of one video that are scored together, with the query."""

    video: int
    tokens: Tensor  # int64 [v], which of its visual tokens
    layout: Layout


@dataclass(frozen=True)
class PreparedSets:
    """Frame sets of one form, run up to the reference layer without a question."""

    sets: list[FrameSet]
    grid: tuple[int, int, int]  # of each
    past: Past  # side by side

    @property
    def num_bytes(self) -> int:
        """Of all keys and values."""
        return sum(state.nbytes for states in self.past for state in states)

    def to(self, device: torch.device | str) -> PreparedSets:
        """A copy whose keys and values lie on `device`."""
        return replace(self, past=[(keys.to(device), values.to(device)) for keys, values in self.past])
