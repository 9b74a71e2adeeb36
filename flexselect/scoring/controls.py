"""Controls: scorers that ignore the question, to compare results with chance."""

from __future__ import annotations

import torch
from torch import Tensor

from flexselect.scoring.scorer import Scorer
from flexselect.structures.prompt import EncodedVideo


class UniformScorer(Scorer):
    """A control that keeps tokens evenly spread over the video and over each frame set."""

    ranks_content = False

    def score(self, encoded: EncodedVideo, query_ids: Tensor) -> Tensor:
        """Score tokens by a low-discrepancy sequence: for every k, the k best are spread almost evenly."""
        golden = (5**0.5 - 1) / 2
        order = torch.arange(encoded.num_tokens, dtype=torch.float64)
        return (1 - order * golden % 1).float()


class RandomScorer(Scorer):
    """A control that keeps random tokens; the same number of tokens and seed give the same selection."""

    ranks_content = False

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def score(self, encoded: EncodedVideo, query_ids: Tensor) -> Tensor:
        """Draw independent uniform numbers in 0..1."""
        return torch.rand(encoded.num_tokens, generator=torch.Generator().manual_seed(self.seed))


CONTROLS: dict[str, type[UniformScorer] | type[RandomScorer]] = {"uniform": UniformScorer, "random": RandomScorer}
