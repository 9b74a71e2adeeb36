"""A part of a model replaced for a moment: how features are had before their projection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def replace_module(module: nn.Module, name: str, stand_in: nn.Module) -> Iterator[None]:
    """Put a stand-in at `module.name`, and the part back whatever happens."""
    part = module.get_submodule(name)
    module.set_submodule(name, stand_in)
    try:
        yield
    finally:
        module.set_submodule(name, part)


class SideBySide(nn.Module):
    """Where a merger was: the patches that it merges, side by side, [n, C] to [n / count, count * C]."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, patches: Tensor) -> Tensor:
        """Nothing is computed."""
        return patches.reshape(len(patches) // self.count, -1)
