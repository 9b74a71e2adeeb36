"""Settings of a run, written next to its results so that one folder never mixes results of two settings."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class UsageError(ValueError):
    """A request that cannot be carried out; raised before any work begins."""


def check_settings(path: Path, settings: dict[str, Any], content: str) -> None:
    """Write settings to a file, or refuse them if the file holds other settings.

    Args:
        path: the file; created if missing.
        settings: plain values, nested or not.
        content: what the folder holds, in words, for the error message.

    Raises:
        UsageError: naming each setting that differs, with both values.
    """
    settings = json.loads(json.dumps(settings))
    if not path.exists():
        write_atomically(path, json.dumps(settings, indent=2))
        return
    try:
        before = read_json_object(path)
    except ValueError as error:
        raise UsageError(f"{error}, or give another --output_dir") from error
    different = describe_differences(before, settings)
    if different:
        raise UsageError(
            f"{path.parent} holds {content} with other settings ({different}). "
            "Give another --output_dir, or delete the folder"
        )


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        ValueError: naming the file, if it is broken.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is cut short or no JSON ({error}); delete it, and run again") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object; delete it, and run again")
    return value


def describe_differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Describe in words which settings differ; "" if none does."""
    old, new = flatten_settings(before), flatten_settings(now)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    default = "the default"  # shown for a setting that is not written
    return "; ".join(f"{name} was {old.get(name, default)}, is {new.get(name, default)}" for name in names)


@contextmanager
def file_in_one_step(path: Path) -> Iterator[Path]:
    """Yield a temporary file that takes the place of `path` at the end: a kill leaves the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a file in one step: a kill leaves the old file or the new one, both complete."""
    path = path.resolve()  # a link stays a link
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")  # a device; an error for a folder
        return
    with file_in_one_step(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def flatten_settings(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to one name each, for example "family.fps"."""
    values: dict[str, Any] = {}
    for name, value in settings.items():
        values |= flatten_settings(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return values
