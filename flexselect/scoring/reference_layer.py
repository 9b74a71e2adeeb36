"""Training-free scores: attention of the VideoLLM at its reference layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from flexselect.attention.layers import attention_layers, check_layer
from flexselect.families.base import VideoFamily, VideoLM
from flexselect.options import ScoringOptions
from flexselect.scoring.attention_scorer import AttentionScorer
from flexselect.structures.prompt import EncodedVideo


def reference_layer(family: VideoFamily, options: ScoringOptions) -> int:
    """Return the reference layer, 0-based.

    Raises:
        ValueError: if the VideoLLM has no such layer, or if it is recurrent.
    """
    if options.reference_layer is None:
        return family.default_reference_layer
    check_layer(options.reference_layer, attention_layers(family.model_config.get_text_config()))
    return options.reference_layer


class ReferenceLayerScorer(AttentionScorer):
    """Attention of the VideoLLM at its reference layer: training-free FlexSelect (section 3.1)."""

    @classmethod
    def make(cls, lm: VideoLM, options: ScoringOptions) -> ReferenceLayerScorer:
        """Make the scorer for the options' layer and reduction."""
        layer = reference_layer(lm.family, options)
        return cls(lm, layer, options.reduction or "max", options.tokens_per_batch)

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
