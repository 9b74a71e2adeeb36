"""Training-free scores: attention of the VideoLLM at its reference layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from flexselect.scoring.attention_scorer import AttentionScorer
from flexselect.structures.prompt import EncodedVideo


class ReferenceLayerScorer(AttentionScorer):
    """Attention of the VideoLLM at its reference layer: training-free FlexSelect (section 3.1)."""

    @property
    def decoder(self) -> Any:
        """The VideoLLM's decoder."""
        return self.lm.decoder

    def embed(self, ids: Tensor) -> Tensor:
        """Embed text ids with the VideoLLM's embedding."""
        return self.lm.embed(ids)

    def view(self, encoded: EncodedVideo, query_ids: Tensor) -> tuple[EncodedVideo, Tensor]:
        """Return both unchanged: the VideoLLM's visual tokens and ids."""
        return encoded, query_ids
