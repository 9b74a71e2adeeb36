"""Questions about videos: what is asked, what was expected, whether an answer is right."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from typing import Any

from flexselect.prompt import VideoClip

LETTERS = string.ascii_uppercase


@dataclass(frozen=True)
class VideoQuestion:
    """One question about one video; `error` says why it cannot be asked."""

    id: str
    video: str
    question: str
    options: tuple[str, ...] = ()  # with options the answer is a letter
    answer: str | None = None  # what is expected; None if unknown
    error: str | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes two rows the same question, in a later run too."""
        return self.id, self.video, self.question

    @property
    def text(self) -> str:
        """What the model is asked: the question, and its options a line each."""
        if not self.options:
            return self.question
        listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, self.options))
        return f"{self.question}\n{listed}\nAnswer with the option's letter from the given choices directly."

    def is_right(self, answer: str | None) -> bool:
        """Whether an answer is the expected one.

        With options: its letter, or the option in words. Otherwise the same words, whatever their case and the
        punctuation around them.
        """
        if answer is None or self.answer is None:
            return False
        if not self.options:
            return _plain(answer) == _plain(self.answer)
        chosen = self._letter(answer)
        return chosen is not None and chosen == self.expected_letter

    @property
    def expected_letter(self) -> str | None:
        """The option that `answer` names, by letter or in words; None if it names none."""
        if self.answer is None:
            return None
        return self._letter(self.answer.strip()) or self._letter(self.answer.strip().upper())

    def _letter(self, text: str) -> str | None:
        """The option that a text chooses: alone, "B. ring", "(B)", "The answer is B", or in words; else None."""
        plain = [_plain(option) for option in self.options]
        if _plain(text) in plain:
            return LETTERS[plain.index(_plain(text))]
        letters = re.escape(LETTERS[: len(self.options)])
        first = re.match(rf"\W*([{letters}])\b", text) or re.search(rf"\b([{letters}])\b(?=\W*$)", text)
        return first.group(1) if first else None


@dataclass(frozen=True)
class QuestionItem:
    """What the data side hands over for one question.

    The clip comes with the first question of each video that is still to be answered; the ones after it are about the
    same clip.
    """

    question: VideoQuestion
    opens: bool = False  # whether a clip, or the reason why there is none, comes with it
    clip: VideoClip | None = None
    error: str | None = None  # why there is no clip
    decode_seconds: float = 0.0


def _plain(text: Any) -> str:
    return str(text).strip().strip(string.punctuation + string.whitespace).casefold()
