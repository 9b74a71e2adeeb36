"""A row of an annotation file."""

from __future__ import annotations

import math
from typing import Any

from flexselect.structures.unicode_text import text_only


class Row(dict[str, Any]):
    """Values by column, as in the file; NaN is None, and half a surrogate pair is U+FFFD."""

    error: str | None = None  # why the row cannot be used, if the file is to blame


class Written(float):
    """A number that prints as it was written: 2.50, not 2.5."""

    def __new__(cls, text: str) -> Written:
        """Make it from the text of a number."""
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str

    def __str__(self) -> str:
        return self.text

    def __reduce__(self) -> tuple:
        return type(self), (self.text,)


def tidy(value: Any) -> Any:
    """Clean a value, nested or not: NaN becomes None, half a surrogate pair becomes U+FFFD."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return text_only(value)
    if isinstance(value, dict):
        return {tidy(name): tidy(one) for name, one in value.items()}
    return [tidy(one) for one in value] if isinstance(value, list | tuple) else value
