"""Find what ships with the package: configs by their names, and the demo's model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

PACKAGE = Path(__file__).parent
PLACES = (PACKAGE / "shipped", PACKAGE.parent)  # of an installed package, see setup.py; of a checkout
CONFIGS, CHECKPOINTS = "configs", "checkpoints/demo"


def config_file(name: str) -> str:
    """Find a config: a file, or one that ships, by its name, for example "qwen2_5_vl_7b" or "demo/self".

    A name that is neither is returned as it is.
    """
    if Path(name).exists():
        return name
    inside = Path(CONFIGS, name.removeprefix(f"{CONFIGS}/").removesuffix(".yaml") + ".yaml")
    return next((str(place / inside) for place in PLACES if (place / inside).is_file()), name)


def config_names() -> list[str]:
    """List the names of all configs that ship."""
    folder = next((place / CONFIGS for place in PLACES if (place / CONFIGS).is_dir()), Path(CONFIGS))
    return sorted(str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.yaml"))


def checkpoint_folder(path: str) -> str:
    """Find a checkpoint of the demo, for example "checkpoints/demo/selector", outside a checkout too.

    Any other path, and one that exists, is returned as it is.
    """
    if not path.startswith(f"{CHECKPOINTS}/") or Path(path).exists():
        return path
    return next((str(place / path) for place in PLACES if (place / path).is_dir()), path)


def find_configs(words: Sequence[str]) -> list[str]:
    """Replace the name of each `--config` of a command line by its file."""
    following, resolved = False, list[str]()
    for word in words:
        name, equals, value = word.partition("=")
        if following:
            resolved.append(config_file(word))
        else:
            resolved.append(f"{name}={config_file(value)}" if name == "--config" and equals else word)
        following = word == "--config"
    return resolved
