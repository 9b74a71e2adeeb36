"""Make text encodable."""

from __future__ import annotations


def replace_surrogates(text: str) -> str:
    """Join surrogate pairs to one character, and replace lone surrogates, which cannot be encoded, with U+FFFD."""
    if not any("\ud800" <= character <= "\udfff" for character in text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
