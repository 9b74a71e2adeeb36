"""Times as people write them."""

from __future__ import annotations

import math
import re
from typing import Any

CLOCK = re.compile(r"(?:(\d+):)?([0-5]?\d):([0-5]?\d(?:\.\d+)?)")  # hours, minutes, seconds


def seconds_of(value: Any) -> float:
    """Convert a time to seconds: 90, "90", "1:30", "00:01:30.5".

    Raises:
        TypeError: if it is neither a number nor a text; true and false are none.
        ValueError: for any other text, or if it is not finite.
    """
    if isinstance(value, str) and (clock := CLOCK.fullmatch(value.strip())):
        hours, minutes, seconds = clock.groups()
        return 3600 * int(hours or 0) + 60 * int(minutes) + float(seconds)
    if isinstance(value, bool):
        raise TypeError(f"{value!r} is no time")
    seconds = float(value)
    if not math.isfinite(seconds):
        raise ValueError(f"{value!r} is no time")
    return seconds


def either(name: str, value: Any, other_name: str, other: Any, what: str = "option") -> Any:
    """Return the value of an option, or of `what` else, that has two names.

    Raises:
        ValueError: naming both, if both have a value.
    """
    if value is not None and other is not None:
        raise ValueError(f"{name} and {other_name} are two names of one {what}: give one of them")
    return other if value is None else value


def checked_time(name: str, value: Any) -> float | None:
    """Convert a time to seconds, see `seconds_of`; None stays None.

    Raises:
        ValueError: naming the option, for anything that is no time.
    """
    try:
        return None if value is None else seconds_of(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be seconds, or hours:minutes:seconds, got {value!r}") from error
