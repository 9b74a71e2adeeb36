"""What a selector is trained on, clip by clip."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from flexselect.structures.prompt import VideoPrompt


@dataclass(frozen=True)
class TrainingClip:
    """A clip with a question."""

    key: str  # what its teacher scores are stored under
    prompt: VideoPrompt | None  # None: it cannot be used
    teacher_scores: Tensor | None = None  # float32 [V], where they are stored
    left_out: tuple[str, ...] = ()  # why the clips that it stands in for, or itself, cannot be used
