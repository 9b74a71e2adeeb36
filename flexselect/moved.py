"""Old import paths that docs/add_a_family.md of version 0.1 promised; until 0.3 they work with a DeprecationWarning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "flexselect.prompt": ("flexselect.structures.prompt",),
    "flexselect.families.loading": (
        "flexselect.loading.weights",
        "flexselect.loading.tokenizer_files",
        "flexselect.loading.checkpoint_files",
    ),
    "flexselect.families.replaced": ("flexselect.running.vision_tower",),
    "flexselect.families.vision_tower": ("flexselect.running.vision_tower",),
}
RENAMED = {"replaced": "replace_module"}  # functions in these modules that have a new name, too


class MovedModules(MetaPathFinder, Loader):
    """Importer that finds modules by their old names."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return a spec if the name is an old one, else None."""
        return ModuleSpec(name, self) if name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Make a module that holds the same objects as the modules with the new names."""
        news = ", ".join(MOVED[spec.name])
        warnings.warn(f"{spec.name} is now {news}; version 0.3 drops the old name", DeprecationWarning, stacklevel=2)
        module = ModuleType(spec.name)
        for name in reversed(MOVED[spec.name]):
            module.__dict__.update(importlib.import_module(name).__dict__)
        renamed = {name: vars(module)[new_name] for name, new_name in RENAMED.items() if new_name in vars(module)}
        module.__dict__.update(renamed)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the module is complete."""


sys.meta_path.append(MovedModules())
