"""Text that every encoder takes."""

from __future__ import annotations


def text_only(text: str) -> str:
    """A text without halves of surrogate pairs, which have no encoding: each is U+FFFD, two that belong are one."""
    if not any("\ud800" <= character <= "\udfff" for character in text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
