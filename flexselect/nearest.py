"""Name what was probably meant by a mistyped word."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str], prefix: str = "", cutoff: float = 0.6) -> str:
    """Return the nearest known name as the end of an error message; empty: none is near, or it is known elsewhere.

    Args:
        name: the name that is not known.
        known: all known names.
        prefix: goes before the nearest name.
        cutoff: how near it must be, from 0 to 1 (equal).
    """
    near = get_close_matches(name, names := list(known), 1, cutoff)
    return f"; did you mean {prefix}{near[0]}?" if near and name not in names else ""
