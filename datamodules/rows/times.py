"""Times in rows: the part of a video that a question is about, and the moments that its answer comes from."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from flexselect.structures.times import checked_time, seconds_of


def part_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Parse `start` and `end` of a row to seconds.

    Raises:
        ValueError: naming the one that is no time.
    """
    part = {name: checked_time(name, values[name]) for name in ("start", "end") if values[name] not in (None, "")}
    return part


def moments_of(value: Any) -> tuple[tuple[float, float], ...]:
    """Parse moments to seconds: [[12, 15.5], ["1:02", "1:04"]], one pair alone, or either written in a text.

    Raises:
        ValueError: for anything else, or a moment that ends before it starts.
    """
    original = value
    try:
        if isinstance(value, str):
            value = ast.literal_eval(value) if value.strip() else None
        if value is None:
            return ()
        pairs = [value] if len(value) == 2 and not any(isinstance(end, list | tuple) for end in value) else value
        moments = tuple((seconds_of(start), seconds_of(end)) for start, end in pairs)
    except (TypeError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"moments must be pairs of seconds, for example [[12, 15.5]], got {original!r}") from error
    if any(not 0 <= start < end for start, end in moments):
        raise ValueError(f"a moment needs 0 <= start < end in seconds, got {original!r}")
    return moments


def absent_of(value: Any) -> bool | None:
    """Parse whether a question's object is not in its video: true or false, also as a word; None: not said.

    Raises:
        ValueError: for anything else.
    """
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False, "": None, "none": None}
    word = str(value).strip().lower()
    if word not in words:
        raise ValueError(f"absent must be true or false, got {value!r}")
    return words[word]
