"""A scorer gives one float per visual token. It knows nothing of budgets.

Training-free, lite, uniform and random selection differ in this object alone: controls run in the same code path.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor

from flexselect.families.base import VisionProjector
from flexselect.scoring.prefix_cache import PrefixCache
from flexselect.structures.prompt import EncodedVideo


class Scorer(ABC):
    """Ranks the visual tokens of a video by their use for a question.

    `score` is all that a new scorer must have; the other members have defaults that fit one that keeps nothing.
    """

    ranks_content: bool = True  # whether scores say where the answer is; those of a control do not

    @abstractmethod
    def score(self, encoded: EncodedVideo, query_ids: Tensor) -> Tensor:
        """Score every visual token.

        Args:
            encoded: the video, V tokens.
            query_ids: the text after it, int64 [Q].

        Returns:
            float32 [V]; larger is more relevant.
        """

    @property
    def projection(self) -> VisionProjector | None:
        """How it sees the tower's features, if it does not take the VideoLLM's visual tokens."""
        return None

    @property
    def teacher(self) -> tuple[int | None, str] | None:
        """The VideoLLM's layer and the reduction that it was trained to rank like; None: it was not trained.

        A layer of None is not known.
        """
        return None

    @property
    def provenance(self) -> dict[str, Any] | None:
        """What its keys and values depend on, beside the video and the VideoLLM; None: it keeps none."""
        return None

    def score_many(
        self,
        encoded: EncodedVideo,
        queries: Sequence[Tensor],
        sets: list[Tensor],
        prefix_cache: Iterable[PrefixCache] | None = None,
    ) -> list[Tensor]:
        """Score for each of several questions.

        Args:
            encoded: the video, V tokens.
            queries: the text after it, int64 [Q] each.
            sets: the visual tokens of each frame set, int64 [*], for a scorer that runs sets one by one.
            prefix_cache: what `prepare` made of the video, kept or as it comes; None: nothing.

        Returns:
            float32 [V] per question.
        """
        return [self.score(encoded, query) for query in queries]

    def prepare(self, encoded: EncodedVideo, sets: list[Tensor]) -> Iterator[PrefixCache]:
        """Do once what does not depend on the question; some frame sets at a time."""
        yield from ()

    def prefix_cache_layouts(self, encoded: EncodedVideo, sets: list[Tensor]) -> Iterator[PrefixCache]:
        """The same without keys and values, for those that were stored."""
        yield from ()

    def shift(self, encoded: EncodedVideo) -> int:
        """How far the scores are from the tokens they mean, see `Selection.shift`."""
        return 0

    def split(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """A prompt in the ids of its own tokenizer, [1, N] or [N], to prefix and query.

        Raises:
            ValueError: for a scorer without a tokenizer of its own.
        """
        raise ValueError("selector_input_ids are for a trained selector: load with selector=DIR")
