"""Questions about videos: what is asked, what was expected, whether an answer is right."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from functools import cached_property

from flexselect.evaluation.answer_parsing import LETTERS, named_option, plain
from flexselect.evaluation.letter_extraction import EXTRACTORS
from flexselect.structures.frames import WHOLE, ReadOptions


@dataclass(frozen=True)
class VideoQuestion:
    """One question about one video; `error` says why it cannot be asked."""

    id: str
    video: str
    question: str
    options: tuple[str, ...] = ()  # with options the answer is a letter
    answer: str | tuple[str, ...] | None = None  # what is expected, any of several; None if unknown
    error: str | None = None
    prompt: str | None = None  # what is asked, where a benchmark's protocol writes it; None: question and options
    extractor: str = "ours"  # how a letter is read out of an answer, see `flexselect.evaluation.letter_extraction`
    max_new_tokens: int | None = None  # None: the run's
    groups: tuple[tuple[str, str], ...] = ()  # what accuracy is broken down by, ("duration", "long") for one
    guess: bool = False  # an answer that no letter can be read out of counts as a letter drawn by chance
    reading: ReadOptions = WHOLE  # which part of the video it is about

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells two rows apart."""
        return self.id, self.video, self.question

    @property
    def counts(self) -> bool:
        """Whether an answer can be right or wrong: a row that lacks something does not count."""
        return self.error is None and self.answer is not None

    @property
    def part(self) -> tuple[str, ReadOptions]:
        """What is opened for it."""
        return self.video, self.reading

    @cached_property
    def prompt_hash(self) -> str:
        """Hash of all that is asked, 16 hex digits: an answer with another one is the answer to something else."""
        part = [self.reading.start, self.reading.end, self.reading.track, self.reading.square_pixels]
        return hashlib.sha256(json.dumps([self.text, self.max_new_tokens, part]).encode()).hexdigest()[:16]

    @property
    def text(self) -> str:
        """What the model is asked: the question, and its options a line each."""
        if self.prompt is not None:
            return self.prompt
        if not self.options:
            return self.question
        listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, self.options))
        return f"{self.question}\n{listed}\nAnswer with the option's letter from the given choices directly."

    def is_right(self, answer: str | None) -> bool:
        """Whether an answer is the expected one.

        With options: its letter, or the option in words. Otherwise the same words, whatever their case and punctuation.
        Of several expected answers any will do.
        """
        if answer is None or self.answer is None:
            return False
        if not self.options:
            return plain(answer) in map(plain, self.expected)
        chosen = self.chosen(answer) or self.drawn(answer)
        return chosen is not None and chosen in self.expected_letters

    def chosen(self, answer: str) -> str | None:
        """The letter that an answer chooses; None if none can be read out of it."""
        return EXTRACTORS[self.extractor](answer, self.options)

    def drawn(self, answer: str) -> str | None:
        """The letter that an answer without one counts as, by chance and the same each time; None where none is."""
        if not self.guess or self.chosen(answer) is not None:
            return None
        return random.Random("\0".join((*self.key, answer))).choice(LETTERS[: len(self.options)])

    @property
    def expected(self) -> tuple[str, ...]:
        """All answers that count as right."""
        return (self.answer,) if isinstance(self.answer, str) else self.answer or ()

    @property
    def expected_letter(self) -> str | None:
        """The option that the expected answer names; None if it names none."""
        return next(iter(self.expected_letters), None)

    @property
    def expected_letters(self) -> list[str | None]:
        """The options that these name, by letter or in words; None for one that names none."""
        return [named_option(answer, self.options) for answer in self.expected]
