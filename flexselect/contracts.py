"""What data modules hand to Lightning modules, and what each side may ask of the other."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from flexselect.evaluation.questions import VideoQuestion
from flexselect.storage.feature_cache import FeatureCache
from flexselect.storage.score_store import ScoreStore
from flexselect.structures.frames import FrameStream, ReadOptions
from flexselect.structures.prompt import EncodedVideo, VideoClip, VideoPrompt


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
    video_hash: str | None = None  # of that file, see `flexselect.storage.file_hash`
    error: str | None = None  # why there is no clip
    warnings: tuple[str, ...] = ()  # what was doubtful about its file before that
    decode_seconds: float = 0.0


@dataclass(frozen=True)
class TrainingClip:
    """A clip with a question, from which a selector learns."""

    key: str  # what its teacher scores are stored under
    prompt: VideoPrompt | None  # None: it cannot be used
    teacher_scores: Tensor | None = None  # float32 [V], where they are stored
    left_out: tuple[str, ...] = ()  # why the clips that it stands in for, or itself, cannot be used


class Recorded(Protocol):
    """A data module whose settings are kept with what a run writes."""

    @property
    def settings(self) -> dict[str, Any]:
        """What decides how its rows are read and put, beside the rows themselves."""


class QuestionSource(Recorded, Protocol):
    """A data module that gives `QuestionItem`s to `VideoQA`."""

    questions: list[VideoQuestion]  # of all processes
    macro: str | None  # the group whose shares are averaged into the accuracy; None: all questions count alike

    def skip(self, answered: Iterable[tuple[str, str, str]]) -> None:
        """Decode no video for questions that an earlier run has answered, by their keys."""

    def use_cache(self, cache: FeatureCache) -> None:
        """Decode no video whose features are in the cache."""

    def hash_of(self, video: str) -> str | None:
        """Hash of a video's file as it is now; None where it cannot be read."""


class TrainingSource(Recorded, Protocol):
    """A data module that gives `TrainingClip`s to the training of a selector and to its teacher."""

    query: str  # what is read after a clip: "question" or "question_and_answer"
    reading: ReadOptions  # how files are read
    store: ScoreStore | None  # of teacher scores; None: the teacher scores as clips come

    def skip(self, scored: Container[str]) -> None:
        """Leave out clips that an earlier run has scored, by their keys."""

    def unscored(self) -> list[str]:
        """Videos of clips that the store has no scores of."""

    @property
    def num_train_batches(self) -> int:
        """Batches of an epoch, of this process."""
