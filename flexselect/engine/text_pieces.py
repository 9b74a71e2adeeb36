"""The text of an answer while it is generated, piece by piece."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

INCOMPLETE = "\ufffd"  # what a part of a character is decoded to


class TextPieces:
    """Turns new tokens into pieces of text; joined, the pieces are the text of all tokens.

    Args:
        decode: ids int64 [n] -> text, without whitespace around it.
        on_text: called after each token with the new text, which may be empty; its errors stop the generation.
    """

    def __init__(self, decode: Callable[[Tensor], str], on_text: Callable[[str], None]) -> None:
        self.decode, self.on_text = decode, on_text
        self._ids: list[int] = []
        self._said = ""

    def add(self, token: int) -> None:
        """Take a new token. Its text is kept back while it may end within a character."""
        self._ids.append(token)
        text = self.decode(torch.tensor(self._ids))
        self._say("" if text.endswith(INCOMPLETE) else text)

    def finish(self) -> None:
        """Say what was kept back."""
        self._say(self.decode(torch.tensor(self._ids)))

    def _say(self, text: str) -> None:
        new = text.removeprefix(self._said) if text.startswith(self._said) else ""
        self._said += new
        self.on_text(new)
