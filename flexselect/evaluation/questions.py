"""Questions about videos: the prompt, the expected answer, and whether an answer is right."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from flexselect.evaluation.answer_parsing import LETTERS, after_thought, named_option, normalise_text
from flexselect.evaluation.letter_extraction import EXTRACTORS
from flexselect.structures.answer import Answer, Option
from flexselect.structures.frames import WHOLE_VIDEO, ReadOptions
from flexselect.validation import checked_question


@dataclass(frozen=True)
class VideoQuestion:
    """One question about one video."""

    id: str
    video: str
    question: str
    options: tuple[str, ...] = ()  # in words; with options, the answer is a letter
    answer: str | tuple[str, ...] | None = None  # expected answer, or several that all count; None if unknown
    error: str | None = None  # why the question cannot be asked
    prompt: str | None = None  # text of a benchmark's protocol; None: the question and its options
    extractor: str = "ours"  # rule that reads a letter out of an answer, see `flexselect.evaluation.letter_extraction`
    max_new_tokens: int | None = None  # None: the value of the run
    groups: tuple[tuple[str, str], ...] = ()  # groups for accuracies, for example ("duration", "long")
    guess: bool = False  # whether an answer without a letter counts as a randomly drawn letter
    reading: ReadOptions = WHOLE_VIDEO  # which part of the video the question is about
    moments: tuple[tuple[float, float], ...] = ()  # where the answer is visible, in seconds; empty if unknown
    absent: bool | None = None  # whether what is asked for is not in the video; None: not said

    @property
    def key(self) -> tuple[str, str, str]:
        """Identity of the question: id, video and text."""
        return self.id, self.video, self.question

    @property
    def counts(self) -> bool:
        """Whether the question counts in accuracy: it can be asked, and has an expected answer."""
        return self.error is None and self.answer is not None

    @property
    def part(self) -> tuple[str, ReadOptions]:
        """The video, and its part to open."""
        return self.video, self.reading

    @cached_property
    def prompt_hash(self) -> str:
        """Hash of everything that is asked, 16 hex digits; an answer with another hash belongs to another prompt."""
        part = [self.reading.start, self.reading.end, self.reading.track, self.reading.square_pixels]
        return hashlib.sha256(json.dumps([self.text, self.max_new_tokens, part]).encode()).hexdigest()[:16]

    @property
    def text(self) -> str:
        """Text for the model: the protocol's prompt, or the question with one option per line."""
        if self.prompt is not None:
            return self.prompt
        if not self.options:
            return self.question
        listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, self.options))
        return f"{self.question}\n{listed}\nAnswer with the option's letter from the given choices directly."

    def is_right(self, answer: str | None) -> bool:
        """Return whether an answer is the expected one, or any of several expected ones.

        With options, the answer must choose the expected letter. Without options, the words must be the same; case and
        punctuation do not count.
        """
        if answer is None or self.answer is None:
            return False
        if not self.options:
            return normalise_text(after_thought(answer)) in map(normalise_text, self.expected)
        chosen = self.chosen(answer) or self.drawn(answer)
        return chosen is not None and chosen in self.expected_letters

    def chosen(self, answer: str) -> str | None:
        """Return the letter that an answer chooses; None if no letter can be read."""
        return EXTRACTORS[self.extractor](after_thought(answer), self.options)

    def drawn(self, answer: str) -> str | None:
        """Return the random letter that replaces a missing letter, the same each time; None if none is needed."""
        if not self.guess or self.chosen(answer) is not None:
            return None
        return random.Random("\0".join((*self.key, answer))).choice(LETTERS[: len(self.options)])

    @property
    def expected(self) -> tuple[str, ...]:
        """All answers in the annotations that count as right."""
        return (self.answer,) if isinstance(self.answer, str) else self.answer or ()

    @property
    def expected_letter(self) -> str | None:
        """Letter of the option that the expected answer names; the first of several, None if it names no option."""
        return next(iter(self.expected_letters), None)

    @property
    def expected_letters(self) -> list[str | None]:
        """Letters of the options that the expected answers name, by letter or in words; None for an unknown option."""
        return [named_option(answer, self.options) for answer in self.expected]


def question_text(question: str, options: Sequence[str] = ()) -> str:
    """Return a question with its options as the model reads them.

    Raises:
        ValueError: if the question is empty, or no text.
    """
    return VideoQuestion("", "", checked_question(question), tuple(options)).text


def with_option(answer: Answer, options: Sequence[str]) -> Answer:
    """Add the option that an answer chooses, or a warning that it chooses none."""
    if not options:
        return answer
    letter = VideoQuestion("", "", "?", tuple(options)).chosen(answer.text)
    if letter is None:
        return replace(answer, warnings=(*answer.warnings, "the answer chooses none of the options"))
    return replace(answer, option=Option(letter, options[ord(letter) - ord("A")]))
