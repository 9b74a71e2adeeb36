"""A video of which only some parts were encoded, numbered as if all of it had been."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from flexselect.structures.prompt import EncodedVideo


@dataclass(frozen=True, kw_only=True)
class SparseVideo(EncodedVideo):
    """A video that was looked at twice: places and times are those of the full look, most tokens are not there.

    `grid`, `seconds` and `delimiters` are of the full look, `features` of the first one.
    """

    fine: Tensor  # [f, W], the visual tokens of the second look
    rows: Tensor  # int32 [V]: a row of `features`, or v + a row of `fine`; -1: not encoded

    @property
    def num_tokens(self) -> int:
        """V, the number of visual tokens of the full look."""
        return math.prod(self.grid)

    @property
    def num_encoded(self) -> int:
        """The number of visual tokens that were encoded, in both looks."""
        return len(self.features) + len(self.fine)

    def holds(self, tokens: Tensor) -> Tensor:
        """Return which of some visual tokens, int64 [*], were encoded: bool [*]."""
        return self.rows[tokens.cpu()] >= 0

    def take(self, tokens: Tensor) -> Tensor:
        """Return the features of some visual tokens, int64 [n], all of them encoded: [n, W]."""
        rows, first = self.rows[tokens.cpu()].long(), len(self.features)
        features = self.features.new_empty(len(rows), self.features.shape[1])
        coarse = rows < first
        features[coarse.to(features.device)] = self.features[rows[coarse].to(features.device)]
        fine = self.fine[(rows[~coarse] - first).to(self.fine.device)]
        features[~coarse.to(features.device)] = fine.to(features)
        return features
