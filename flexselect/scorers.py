"""Scorers give one float per visual token. They know nothing of budgets.

Training-free, uniform and random selection differ in this object alone, so the controls run in the same code path.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from flexselect.attention import Probe, resolve_reduction, run_probe
from flexselect.families.base import VideoLM
from flexselect.layout import Layout
from flexselect.partition import frame_sets
from flexselect.prompt import EncodedVideo


class Scorer(ABC):
    """Ranks the visual tokens of a video by their use for a question."""

    @abstractmethod
    def score(self, encoded: EncodedVideo, query_ids: Tensor) -> Tensor:
        """Score every visual token.

        Args:
            encoded: the video, V tokens.
            query_ids: the text after it, int64 [Q].

        Returns:
            float32 [V]; larger is more relevant.
        """


class ReferenceLayerScorer(Scorer):
    """The VideoLLM's own attention at one layer: training-free FlexSelect (section 3.1).

    Each frame set runs alone, between the same prefix and query, with positions of its own as if it were a short
    video of consecutive units 1.0 s apart, as in the released code. Sets have at most two lengths; those of one
    length run together, up to `tokens_per_batch` prompt tokens at a time, without padding.
    """

    def __init__(
        self, lm: VideoLM, layer: int, reduction: str = "max", units_per_set: int = 64, tokens_per_batch: int = 32768
    ) -> None:
        depth = len(lm.decoder.layers)
        if not 0 <= layer < depth:
            raise ValueError(f"reference_layer must be between 0 and {depth - 1} for this model, got {layer}")
        self.lm = lm
        self.layer = layer
        self.reduction = resolve_reduction(reduction)
        self.units_per_set = units_per_set
        self.tokens_per_batch = tokens_per_batch

    @torch.inference_mode()
    def score(self, encoded: EncodedVideo, query_ids: Tensor) -> Tensor:
        """One float32 [V]: attention probabilities in 0..1."""
        lm = self.lm
        scores = torch.empty(encoded.num_tokens, device=lm.device)
        for tokens, ids, layout in self._batches(encoded, query_ids):
            embeddings, deepstack = lm.merge(ids, layout.visual, encoded.features[tokens.to(encoded.features.device)])
            grid = (tokens.shape[1] // encoded.tokens_per_unit, *encoded.grid[1:])
            where = lm.position_ids(layout, grid, seconds_per_unit=1.0).to(lm.device)
            where = where[:, None].expand(-1, len(ids), -1) if len(where) > 1 else where.expand(len(ids), -1)
            probe = Probe(self.layer, layout.query_rows, layout.span, self.reduction)
            found = run_probe(lm.decoder, embeddings, where, probe, **deepstack)
            scores[tokens.to(lm.device)] = found[:, layout.visual[layout.span].to(found.device)].to(scores)
        return scores

    def _batches(self, encoded: EncodedVideo, query_ids: Tensor) -> Iterator[tuple[Tensor, Tensor, Layout]]:
        """Frame sets of one form, stacked: visual tokens int64 [B, v], ids [B, N], and the form."""
        alike: dict[bytes, list[tuple[Tensor, Layout]]] = {}
        for tokens in frame_sets(encoded.num_units, encoded.tokens_per_unit, self.units_per_set):
            units = (tokens[:: encoded.tokens_per_unit] // encoded.tokens_per_unit).tolist()
            layout = encoded.layout(query_ids, self.lm.visual_id, units)
            alike.setdefault(layout.visual.numpy().tobytes(), []).append((tokens, layout))
        for group in alike.values():
            size = max(1, self.tokens_per_batch // len(group[0][1].ids))
            for first in range(0, len(group), size):
                some = group[first : first + size]
                yield torch.stack([t for t, _ in some]), torch.stack([la.ids for _, la in some]), some[0][1]


class UniformScorer(Scorer):
    """A control that ignores the question: tokens evenly spread over the video, and over each frame set of it."""

    def score(self, encoded: EncodedVideo, query_ids: Tensor) -> Tensor:
        """A low-discrepancy sequence over the units: its k best are k tokens almost evenly spread, for every k."""
        golden = (5**0.5 - 1) / 2
        order = torch.arange(encoded.num_tokens, dtype=torch.float64)
        return (1 - order * golden % 1).float()


class RandomScorer(Scorer):
    """A control that draws tokens by chance; the same video length and seed give the same draw."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def score(self, encoded: EncodedVideo, query_ids: Tensor) -> Tensor:
        """Independent uniform numbers in 0..1."""
        return torch.rand(encoded.num_tokens, generator=torch.Generator().manual_seed(self.seed))


CONTROLS: dict[str, Callable[[], Scorer]] = {"uniform": UniformScorer, "random": RandomScorer}
