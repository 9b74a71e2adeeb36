"""Training-free scores: the VideoLLM's own attention at its reference layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from flexselect.scoring.attention_scorer import AttentionScorer
from flexselect.structures.prompt import EncodedVideo


class ReferenceLayerScorer(AttentionScorer):
    """The VideoLLM's own attention at one layer: training-free FlexSelect (section 3.1)."""

    @property
    def decoder(self) -> Any:
        """The VideoLLM's."""
        return self.lm.decoder

    def embed(self, ids: Tensor) -> Tensor:
        """Its own."""
        return self.lm.embed(ids)

    def view(self, encoded: EncodedVideo, query_ids: Tensor) -> tuple[EncodedVideo, Tensor]:
        """As they are."""
        return encoded, query_ids
