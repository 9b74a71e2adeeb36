"""A scorer gives one float per visual token. It knows nothing of budgets.

Training-free, lite, uniform and random selection differ in this object alone: controls run in the same code path.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from flexselect.structures.prompt import EncodedVideo


class Scorer(ABC):
    """Ranks the visual tokens of a video by their use for a question."""

    @abstractmethod
    def score(self, encoded: EncodedVideo, query_ids: Tensor) -> Tensor:
        """Score every visual token.

        Args:
            encoded: the video, V tokens.
            query_ids: the text after it, int64 [Q].

        Returns:
            float32 [V]; larger is more relevant.
        """
