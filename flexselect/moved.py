"""Import paths of version 0.1 that docs/add_a_family.md promised: they work until 0.3, with a DeprecationWarning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "flexselect.prompt": "flexselect.structures.prompt",
    "flexselect.families.loading": "flexselect.loading.weights",
    "flexselect.families.replaced": "flexselect.families.vision_tower",
}


class MovedModules(MetaPathFinder, Loader):
    """Finds a module under the name that it had before."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """For an old name a module to import; None for any other."""
        return ModuleSpec(name, self) if name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """A module that holds the very objects of the one under the new name."""
        new = MOVED[spec.name]
        warnings.warn(f"{spec.name} is now {new}; version 0.3 drops the old name", DeprecationWarning, stacklevel=2)
        module = ModuleType(spec.name)
        module.__dict__.update(importlib.import_module(new).__dict__)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the module is complete."""


sys.meta_path.append(MovedModules())
