"""The teacher: a selector learns to rank visual tokens as the teacher's reference layer does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from flexselect.attention.probe import resolve_reduction
from flexselect.families import load_lm
from flexselect.families.base import VideoFamily, VideoLM
from flexselect.loading.fingerprint import weights_hash
from flexselect.options import ScoringOptions, check_names
from flexselect.scoring.factory import reference_layer
from flexselect.scoring.frame_sets import frame_sets
from flexselect.scoring.reference_layer import ReferenceLayerScorer
from flexselect.storage.score_store import round_to_stored
from flexselect.structures.prompt import EncodedVideo

SINCE_0_1 = ("reference_layer", "reduction", "units_per_set", "dtype")
SINCE_0_2 = {"quantization": None}  # options that files of version 0.1 do not name, with their values in 0.1


class Teacher:
    """The VideoLLM that computes the scores that a selector learns.

    Args:
        family: the family of the VideoLLM.
        options: see `flexselect.options.ScoringOptions`. The default reference layer is the one used for answering,
            unlike in the released trainings.

    Raises:
        ValueError: if an option is out of range, or the VideoLLM has no such layer.
    """

    def __init__(self, family: VideoFamily, **options: Any) -> None:
        self.family = family
        check_names(ScoringOptions, options, "the teacher", set_by=("device",))
        self.options = ScoringOptions(device=None, **options)
        self.layer = reference_layer(family, self.options)  # 0-based
        self.reduction = resolve_reduction(self.options.reduction or "max")

    @property
    def score_settings(self) -> dict[str, Any]:
        """The options that change scores; those added since 0.1 only if they differ from what 0.1 did."""
        options = {**vars(self.options), "reduction": self.reduction}
        changed = {name: options[name] for name, value in SINCE_0_2.items() if options[name] != value}
        return {name: options[name] for name in SINCE_0_1} | changed

    def settings(self, query: str) -> dict[str, Any]:
        """Return everything that decides the scores of a clip, to be stored with the scores.

        Args:
            query: the text after a clip, see `SelectorDataModule`.
        """
        model = {"path": self.family.path, "weights": weights_hash(self.family.path), "family": self.family.identity}
        return {**model, **self.score_settings, "reference_layer": self.layer, "query": query}

    def load(self, device: torch.device, layers: int | None = None) -> VideoLM:
        """Load the tower and the first `layers` decoder layers, frozen; by default, up to the reference layer."""
        depth = self.layer + 1 if layers is None else layers
        lm = load_lm(self.family, replace(self.options, device=str(device)), depth)
        lm.model.requires_grad_(False)
        return lm

    def frame_sets(self, video: EncodedVideo) -> list[Tensor]:
        """Split a video into frame sets: int64 [*] each."""
        return frame_sets(video.num_units, video.tokens_per_unit, self.options.units_per_set)

    @torch.inference_mode()
    def scores(self, lm: VideoLM, videos: list[EncodedVideo], queries: list[Tensor]) -> list[Tensor]:
        """Score clips with one query per clip, rounded as in a score store: float32 [V] each."""
        scorer = ReferenceLayerScorer(lm, self.layer, self.reduction, self.options.tokens_per_batch)
        scores_by_clip = scorer.scores(videos, queries, [self.frame_sets(video) for video in videos])
        return [round_to_stored(scores) for scores in scores_by_clip]
