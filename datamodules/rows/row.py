"""A row of an annotation file."""

from __future__ import annotations

import math
from typing import Any

from flexselect.structures.unicode_text import replace_surrogates


class Row(dict[str, Any]):
    """Values by column, as in the file; NaN is None, and half a surrogate pair is U+FFFD."""

    error: str | None = None  # why the row cannot be used, if the file is malformed


class Written(float):
    """A number that prints as it was written: 2.50, not 2.5."""

    def __new__(cls, text: str) -> Written:
        """Create a number from its text."""
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
        return replace_surrogates(value)
    if isinstance(value, dict):
        return {tidy(name): tidy(item) for name, item in value.items()}
    return [tidy(item) for item in value] if isinstance(value, list | tuple) else value
