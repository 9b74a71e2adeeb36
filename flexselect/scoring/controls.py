"""Controls: scorers that ignore the question, so that a result can be told from chance."""

from __future__ import annotations

import torch
from torch import Tensor

from flexselect.scoring.scorer import Scorer
from flexselect.structures.prompt import EncodedVideo


class UniformScorer(Scorer):
    """A control that ignores the question: tokens evenly spread over the video, and over each frame set of it."""

    ranks_content = False

    def score(self, encoded: EncodedVideo, query_ids: Tensor) -> Tensor:
        """A low-discrepancy sequence over the units: its k best are k tokens almost evenly spread, for every k."""
        golden = (5**0.5 - 1) / 2
        order = torch.arange(encoded.num_tokens, dtype=torch.float64)
        return (1 - order * golden % 1).float()


class RandomScorer(Scorer):
    """A control that draws tokens by chance; the same video length and seed give the same draw."""

    ranks_content = False

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def score(self, encoded: EncodedVideo, query_ids: Tensor) -> Tensor:
        """Independent uniform numbers in 0..1."""
        return torch.rand(encoded.num_tokens, generator=torch.Generator().manual_seed(self.seed))


CONTROLS: dict[str, type[UniformScorer] | type[RandomScorer]] = {"uniform": UniformScorer, "random": RandomScorer}
