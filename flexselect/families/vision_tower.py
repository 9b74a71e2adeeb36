"""Replace a part of a model within a block: to get vision features before their projection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def replace_module(module: nn.Module, name: str, stand_in: nn.Module) -> Iterator[None]:
    """Replace `module.name` by another module within a block; it is put back after errors too."""
    part = module.get_submodule(name)
    module.set_submodule(name, stand_in)
    try:
        yield
    finally:
        module.set_submodule(name, part)


class SideBySide(nn.Module):
    """Replaces a merger: concatenates the patches that it would merge, [n, C] to [n / count, count * C]."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, patches: Tensor) -> Tensor:
        """Concatenate; nothing is computed."""
        return patches.reshape(len(patches) // self.count, -1)
