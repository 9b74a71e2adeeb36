"""The interface of scorers: one float per visual token. Budgets are in `frame_sets`.

Training-free, lite, uniform and random selection differ only in the scorer, so controls run through the same code.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from flexselect.families.base import VideoLM, VisionProjector
from flexselect.options import ScoringOptions
from flexselect.scoring.prefix_cache import PrefixCache
from flexselect.structures.prompt import EncodedVideo


class Scorer(ABC):
    """Ranks the visual tokens of a video by their relevance to a question.

    A new scorer must define `score` only. The defaults of the other members fit a scorer that caches nothing.
    """

    ranks_content: bool = True  # whether scores depend on the video's content; false for controls

    @classmethod
    def make(cls, lm: VideoLM, options: ScoringOptions) -> Scorer:
        """Make the scorer of a mode from the loaded VideoLLM and the options of the run."""
        return cls()

    @abstractmethod
    def score(self, encoded: EncodedVideo, query_ids: Tensor) -> Tensor:
        """Score every visual token.

        Args:
            encoded: the video, with V visual tokens.
            query_ids: the text after the video, int64 [Q].

        Returns:
            float32 [V]; larger is more relevant.
        """

    @property
    def gpus(self) -> set[torch.device]:
        """All GPUs that hold weights of the scorer, besides those of the VideoLLM."""
        return set()

    @property
    def trained(self) -> torch.nn.Module | None:
        """The model that was trained to score; None: there is none."""
        return None

    @property
    def projection(self) -> VisionProjector | None:
        """The projection that makes `selector_features`; None: the scorer uses the VideoLLM's visual tokens."""
        return None

    @property
    def teacher(self) -> tuple[int | None, str] | None:
        """The teacher's layer and reduction; a layer of None is unknown. None: the scorer was not trained."""
        return None

    @property
    def provenance(self) -> dict[str, Any] | None:
        """Provenance of the prefix cache besides the video and the VideoLLM; None: there is no prefix cache."""
        return None

    def score_many(
        self,
        encoded: EncodedVideo,
        queries: Sequence[Tensor],
        sets: list[Tensor],
        prefix_cache: Iterable[PrefixCache] | None = None,
    ) -> list[Tensor]:
        """Score the visual tokens for several questions.

        Args:
            encoded: the video, with V visual tokens.
            queries: for each question the text after the video, int64 [Q].
            sets: the visual tokens of each frame set, int64 [*].
            prefix_cache: the output of `prepare` for this video; None: it is computed if needed.

        Returns:
            float32 [V] per question.
        """
        return [self.score(encoded, query) for query in queries]

    def prepare(self, encoded: EncodedVideo, sets: list[Tensor]) -> Iterator[PrefixCache]:
        """Compute the part of scoring that does not depend on the question, a few frame sets at a time."""
        yield from ()

    def prefix_cache_layouts(self, encoded: EncodedVideo, sets: list[Tensor]) -> Iterator[PrefixCache]:
        """Yield the prefix caches of `prepare` without keys and values, to be filled with stored ones."""
        yield from ()

    def prefix_cache_bytes(self, encoded: EncodedVideo, sets: list[Tensor]) -> int:
        """Return the bytes of all that `prepare` yields."""
        return 0

    def operations(self, tokens: int) -> float:
        """Count the operations of scoring a frame set whose prompt has this many tokens, see `Answer.cost`."""
        return 0.0

    def shift(self, encoded: EncodedVideo) -> int:
        """Return how many places before a scored token the visual token is that it stands for."""
        return 0

    def split(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Split a prompt in the selector tokenizer's ids, [1, N] or [N], into prefix and query.

        Raises:
            ValueError: if the scorer has no separate tokenizer.
        """
        raise ValueError("selector_input_ids are for a trained selector: load with selector=DIR")
