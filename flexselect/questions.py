"""Questions about videos: what is asked, what was expected, whether an answer is right."""

from __future__ import annotations

import random
from dataclasses import dataclass

from flexselect.extraction import EXTRACTORS, LETTERS, ours, plain
from flexselect.frames import FrameStream
from flexselect.prompt import EncodedVideo, VideoClip


@dataclass(frozen=True)
class VideoQuestion:
    """One question about one video; `error` says why it cannot be asked."""

    id: str
    video: str
    question: str
    options: tuple[str, ...] = ()  # with options the answer is a letter
    answer: str | None = None  # what is expected; None if unknown
    error: str | None = None
    prompt: str | None = None  # what is asked, where a benchmark's protocol writes it; None: question and options
    extractor: str = "ours"  # how a letter is read out of an answer, see `flexselect.extraction`
    max_new_tokens: int | None = None  # None: the run's
    groups: tuple[tuple[str, str], ...] = ()  # what accuracy is broken down by, ("duration", "long") for one
    guess: bool = False  # an answer that no letter can be read out of counts as a letter drawn by chance

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes two rows the same question, in a later run too."""
        return self.id, self.video, self.question

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

        With options: its letter, or the option in words. Otherwise the same words, whatever their case and the
        punctuation around them.
        """
        if answer is None or self.answer is None:
            return False
        if not self.options:
            return plain(answer) == plain(self.answer)
        chosen = self.chosen(answer) or self.drawn(answer)
        return chosen is not None and chosen == self.expected_letter

    def chosen(self, answer: str) -> str | None:
        """The letter that an answer chooses; None if none can be read out of it."""
        return EXTRACTORS[self.extractor](answer, self.options)

    def drawn(self, answer: str) -> str | None:
        """The letter that an answer without one counts as, by chance and the same each time; None where none is."""
        if not self.guess or self.chosen(answer) is not None:
            return None
        return random.Random("\0".join((*self.key, answer))).choice(LETTERS[: len(self.options)])

    @property
    def expected_letter(self) -> str | None:
        """The option that `answer` names, by letter or in words; None if it names none."""
        if self.answer is None:
            return None
        return ours(self.answer.strip(), self.options) or ours(self.answer.strip().upper(), self.options)


@dataclass(frozen=True)
class QuestionItem:
    """What the data side hands over for one question.

    The clip, or what stands for it, comes with the first question of each video that is still to be answered; the ones
    after it are about the same clip.
    """

    question: VideoQuestion
    opens: bool = False  # whether a clip, or the reason why there is none, comes with it
    clip: VideoClip | None = None
    stream: FrameStream | None = None  # instead of a clip, where it is decoded in the main process
    encoded: EncodedVideo | None = None  # instead of both, where a `FeatureCache` had it
    path: str | None = None  # of the video's file
    error: str | None = None  # why there is no clip
    decode_seconds: float = 0.0
