"""The interface between data modules and Lightning modules: items, and protocols for both sides."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from flexselect.evaluation.questions import VideoQuestion
from flexselect.storage.feature_cache import FeatureCache
from flexselect.storage.score_store import ScoreStore
from flexselect.storage.shard import Shard
from flexselect.structures.frames import FrameStream, ReadOptions
from flexselect.structures.prompt import EncodedVideo, VideoClip, VideoPrompt


@dataclass(frozen=True)
class QuestionItem:
    """One question; the first unanswered question about a video also brings the video.

    If `opens`, exactly one of `clip`, `stream`, `encoded` and `error` is set; later questions use the same video.
    """

    question: VideoQuestion
    opens: bool = False  # whether this item brings a new video, or the reason why it cannot be used
    clip: VideoClip | None = None  # a decoded video
    stream: FrameStream | None = None  # a video that the main process decodes
    encoded: EncodedVideo | None = None  # features from a `FeatureCache`
    path: str | None = None  # the video's file
    video_hash: str | None = None  # hash of that file, see `flexselect.storage.file_hash`
    error: str | None = None  # why the video cannot be used
    warnings: tuple[str, ...] = ()  # what is doubtful in the file, known before decoding
    decode_seconds: float = 0.0


@dataclass(frozen=True)
class TrainingClip:
    """A clip with a question, for training a selector."""

    key: str  # key of its teacher scores in the store
    prompt: VideoPrompt | None  # None: the clip cannot be used
    teacher_scores: Tensor | None = None  # float32 [V]; None: not stored, the teacher computes them
    left_out: tuple[str, ...] = ()  # why this clip, or clips that it replaces, cannot be used


class Recorded(Protocol):
    """A data module whose settings are saved with a run's output."""

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that change how rows are read and asked."""


class QuestionSource(Recorded, Protocol):
    """A data module that yields `QuestionItem`s for `VideoQA`."""

    table: list[VideoQuestion]  # all questions, of all shards
    questions: list[VideoQuestion]  # the questions of this run, of all its processes
    shard: Shard | None  # which part of the table this run answers; None: all
    macro: str | None  # accuracy is the mean over the values of this group; None: over all questions

    def skip(self, answered: Iterable[tuple[str, str, str]]) -> None:
        """Mark questions that an earlier run answered, by their keys; their videos need not be decoded."""

    def use_cache(self, cache: FeatureCache) -> None:
        """Take features from the cache instead of decoding a video."""

    def stream_only(self) -> None:
        """Hand over videos as streams, never decoded: the model reads some of their frames only."""

    def hash_of(self, video: str) -> str | None:
        """Return the current hash of a video's file; None if it cannot be read."""


class TrainingSource(Recorded, Protocol):
    """A data module that yields `TrainingClip`s for a selector's training and its teacher."""

    reading: ReadOptions  # how files are read
    store: ScoreStore | None  # stored teacher scores; None: the teacher computes scores during training
    shard: Shard | None  # which part of the clips `predict` scores; None: all

    @property
    def query(self) -> str:
        """The text after a clip: "question" or "question_and_answer"."""

    def skip(self, scored: Container[str]) -> None:
        """Leave out clips that an earlier run scored, by their keys."""

    def unscored(self) -> list[str]:
        """List the videos of clips without stored scores."""

    @property
    def num_train_batches(self) -> int:
        """Number of batches per epoch in this process."""
