"""Video readers by name. They are entry points, so that this package depends on no decoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from flexselect.nearest import did_you_mean

GROUP = "flexselect.video_readers"
DEFAULT_READER = "pyav"


@cache
def installed_readers() -> dict[str, EntryPoint]:
    """List the readers that installed packages bring, by name."""
    return {reader.name: reader for reader in sorted(entry_points(group=GROUP), key=lambda reader: reader.name)}


def unknown_reader(name: str) -> str | None:
    """Say that a name is no reader's, with the nearest name and all names; None: there is a reader of this name."""
    names = list(installed_readers())
    if name in names:
        return None
    return f"there is no video reader {name}{did_you_mean(name, names) or '.'} Installed are {', '.join(names)}"


@cache
def load_reader(name: str) -> Callable[..., Any]:
    """Load a reader: a function (path, sample, resize[, `ReadOptions`]) -> `FrameStream`.

    Raises:
        RuntimeError: if no reader at all is installed.
        ValueError: if there is no reader of this name, or the package that it needs is missing.
    """
    if not installed_readers():
        reason = "no video reader is installed: run `pip install -e .`, or pass frames to open(frames, seconds)"
        raise RuntimeError(reason)
    unknown = unknown_reader(name)
    if unknown is not None:
        raise ValueError(unknown)
    try:
        return installed_readers()[name].load()
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        raise ValueError(f"the video reader {name} cannot be used: {error}") from error
