"""Replace a module of a model temporarily, to get vision features before their projection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def replace_module(module: nn.Module, name: str, replacement: nn.Module) -> Iterator[None]:
    """Replace `module.name` within a `with` block; put the original back, after an error too."""
    original = module.get_submodule(name)
    module.set_submodule(name, replacement)
    try:
        yield
    finally:
        module.set_submodule(name, original)


class SideBySide(nn.Module):
    """Replacement of a merger that concatenates the patches to merge: [n, C] to [n / count, count * C]."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, patches: Tensor) -> Tensor:
        """Concatenate every `count` patches."""
        return patches.reshape(len(patches) // self.count, -1)
