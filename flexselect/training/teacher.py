"""The VideoLLM whose reference layer a selector learns to rank like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flexselect.attention import resolve_reduction
from flexselect.families.base import VideoFamily, VideoLM
from flexselect.loading.fingerprint import weights_hash
from flexselect.loading.weights import LoadOptions
from flexselect.scoring.reference_layer import ReferenceLayerScorer
from flexselect.storage.score_store import as_stored
from flexselect.structures.prompt import EncodedVideo


@dataclass(frozen=True)
class Teacher:
    """Which scores are learnt.

    Args:
        family: the VideoLLM.
        reference_layer: 0-based; None: the one used for answering, unlike the released trainings.
        reduction: over heads and query rows.
        units_per_set: the most units scored together, as when answering.
        dtype: of its weights.

    Raises:
        ValueError: for a layer that the VideoLLM does not have.
    """

    family: VideoFamily
    reference_layer: int | None = None
    reduction: str = "max"
    units_per_set: int = 64
    dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        if not 0 <= self.layer < self.family.num_layers:
            most = self.family.num_layers - 1
            raise ValueError(f"reference_layer must be between 0 and {most} for this model, got {self.layer}")
        resolve_reduction(self.reduction)

    @property
    def layer(self) -> int:
        """The reference layer."""
        return self.family.default_reference_layer if self.reference_layer is None else self.reference_layer

    def settings(self, query: str) -> dict[str, Any]:
        """All that decides the scores of a clip, to be kept with them.

        Args:
            query: what is read after a clip, see `SelectorDataModule`.
        """
        return {
            "path": self.family.path,
            "weights": weights_hash(self.family.path),
            "family": self.family.identity,
            "reference_layer": self.layer,
            "reduction": resolve_reduction(self.reduction),
            "units_per_set": self.units_per_set,
            "dtype": self.dtype,
            "query": query,
        }

    def load(self, device: torch.device, layers: int | None = None) -> VideoLM:
        """The tower and the decoder up to the reference layer, frozen; or the first `layers` of it."""
        depth = self.layer + 1 if layers is None else layers
        lm = self.family.load(LoadOptions(getattr(torch, self.dtype), device, num_layers=depth))
        lm.model.requires_grad_(False)
        return lm

    @torch.inference_mode()
    def scores(self, lm: VideoLM, videos: list[EncodedVideo], queries: list[Tensor]) -> list[Tensor]:
        """Scores of clips with a query each, as a store gives them back: float32 [V] each."""
        scorer = ReferenceLayerScorer(lm, self.layer, self.reduction, self.units_per_set)
        return [as_stored(scores) for scores in scorer.scores(videos, queries)]
