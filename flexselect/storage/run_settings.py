"""What a run was made with, kept beside what it wrote, so that two settings are never mixed in one folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class UsageError(ValueError):
    """What was asked for cannot be done; nothing was begun."""


def check_settings(path: Path, settings: dict[str, Any], what: str) -> None:
    """Write settings down, or refuse those that are not the ones written before.

    Args:
        path: the file; made when missing.
        settings: plain values, nested or not.
        what: is in the folder, for the error.

    Raises:
        UsageError: naming each setting that differs, and both its values.
    """
    settings = json.loads(json.dumps(settings))
    if not path.exists():
        write_atomically(path, json.dumps(settings, indent=2))
        return
    try:
        before = read_object(path)
    except ValueError as error:
        raise UsageError(f"{error}, or give another --output_dir") from error
    different = differences(before, settings)
    if different:
        raise UsageError(
            f"{path.parent} holds {what} with other settings ({different}). "
            "Give another --output_dir, or delete the folder"
        )


def read_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        ValueError: naming it, where it is broken.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is cut short or no JSON ({error}); delete it, and run again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no object; delete it, and run again")
    return found


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Which settings differ, in words; empty where none does."""
    old, new = flat(before), flat(now)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    default = "the default"  # what is not written down
    return "; ".join(f"{name} was {old.get(name, default)}, is {new.get(name, default)}" for name in names)


def write_atomically(path: Path, text: str) -> None:
    """Write a file in one step: a kill leaves the old one or the new one."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under one name each, "family.fps" for one."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found
