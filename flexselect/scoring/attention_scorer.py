"""Scores from attention: the query rows' attention to the visual tokens at one layer of a decoder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from flexselect.attention import Probe, probed_scores, resolve_reduction, states_before
from flexselect.families.base import VideoLM
from flexselect.families.merging import merged
from flexselect.scoring.prefix_cache import FrameSet, PrefixCache
from flexselect.scoring.scorer import Scorer
from flexselect.structures.layout import Layout
from flexselect.structures.prompt import EncodedVideo

NO_QUERY = torch.empty(0, dtype=torch.long)


class AttentionScorer(Scorer):
    """Attention of the query rows to the visual tokens at one layer of a decoder.

    Each frame set runs alone, between the same prefix and query, with positions of its own as if it were a short
    video of consecutive units 1.0 s apart, as in the released code. Sets have at most two lengths; those of one
    length run together, up to `tokens_per_batch` prompt tokens at a time, without padding.
    """

    def __init__(self, lm: VideoLM, layer: int, reduction: str = "max", tokens_per_batch: int = 32768) -> None:
        self.lm = lm
        depth = len(self.decoder.layers)
        if not 0 <= layer < depth:
            raise ValueError(f"reference_layer must be between 0 and {depth - 1} for this model, got {layer}")
        self.layer = layer
        self.reduction = resolve_reduction(reduction)
        self.tokens_per_batch = tokens_per_batch

    @property
    @abstractmethod
    def decoder(self) -> Any:
        """Whose attention it is."""

    @abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """Text ids [...] to the decoder's embeddings [..., D]."""

    @abstractmethod
    def view(self, encoded: EncodedVideo, query_ids: Tensor) -> tuple[EncodedVideo, Tensor]:
        """The video and the query, int64 [Q], as the decoder takes them."""

    @property
    def provenance(self) -> dict[str, Any]:
        """What keys and values depend on, beside the video and the VideoLLM. The one method that may be extended."""
        return {"layer": self.layer, "tokens_per_batch": self.tokens_per_batch}

    # Final from here on.

    def score(self, encoded: EncodedVideo, query_ids: Tensor) -> Tensor:
        """The whole video as one frame set: float32 [V], attention probabilities in 0..1."""
        return self.score_many(encoded, [query_ids], [torch.arange(encoded.num_tokens)])[0]

    @torch.inference_mode()
    def score_many(
        self,
        encoded: EncodedVideo,
        queries: Sequence[Tensor],
        sets: list[Tensor],
        prefix_cache: Iterable[PrefixCache] | None = None,
    ) -> list[Tensor]:
        """For each of several questions, float32 [V]: once the sets are prepared, the questions' rows run alone."""
        if prefix_cache is None and len(queries) == 1:
            return self.scores([encoded], queries, [sets])
        views = [self.view(encoded, query) for query in queries]
        found = [torch.empty(encoded.num_tokens, device=self.lm.device) for _ in queries]
        for part in self.prepare(encoded, sets) if prefix_cache is None else prefix_cache:
            at_hand = part.to(self.lm.device)
            for (_, query), scores in zip(views, found):
                self._score_rows(query, at_hand, scores)
        return found

    @torch.inference_mode()
    def prepare(self, encoded: EncodedVideo, sets: list[Tensor]) -> Iterator[PrefixCache]:
        """Do once what does not depend on the question: prefix and visual tokens, up to the reference layer.

        Its size is 2 * layers * key/value width for each token: 43 KB in Qwen2.5-VL-7B's bfloat16 up to layer 20.

        Args:
            encoded: the video, on any device.
            sets: see `score_many`.

        Yields:
            Some frame sets at a time.
        """
        video, _ = self.view(encoded, NO_QUERY)
        for form in self.prefix_cache_layouts(encoded, sets):
            features, grid = self._stacked([video], form.sets)
            embeddings, where, deepstack = self._inputs(features, [s.layout.before_query for s in form.sets], grid)
            yield replace(form, past=states_before(self.decoder, embeddings, where, self.layer, **deepstack))

    def prefix_cache_layouts(self, encoded: EncodedVideo, sets: list[Tensor]) -> Iterator[PrefixCache]:
        """The same without keys and values, for those that were stored."""
        for alike in self._batches([(self.view(encoded, NO_QUERY)[0], NO_QUERY)], [sets]):
            yield PrefixCache(alike, (len(alike[0].tokens) // encoded.tokens_per_unit, *encoded.grid[1:]), [])

    def _score_rows(self, query: Tensor, part: PrefixCache, found: Tensor) -> None:
        layout = part.sets[0].layout.with_query(
            query
        )  # brackets may be worded otherwise in others, but they stand alike
        span, after = layout.span, slice(layout.span.stop, None)
        where = self._positions(layout, part.grid, len(part.sets))[..., after]
        ids = torch.stack([torch.cat([s.layout.ids[after], query.cpu()]) for s in part.sets])
        embeddings = self.embed(ids.to(where.device))
        probe = Probe(self.layer, ids.shape[1], span, self.reduction)
        scores = probed_scores(self.decoder, embeddings, where, probe, part.past)
        for s, of_set in zip(part.sets, scores[:, layout.visual[span].to(scores.device)]):
            found[s.tokens] = of_set.to(found)

    def scores(
        self, videos: Sequence[EncodedVideo], queries: Sequence[Tensor], sets: Sequence[list[Tensor]]
    ) -> list[Tensor]:
        """Of several videos with a query each, frame sets of one form together; with gradients: float32 [V] each."""
        views = [self.view(video, query) for video, query in zip(videos, queries)]
        found = [torch.empty(video.num_tokens, device=self.lm.device) for video, _ in views]
        for alike in self._batches(views, sets):
            features, grid = self._stacked([video for video, _ in views], alike)
            for part, scores in zip(alike, self._run(features, [s.layout for s in alike], grid)):
                found[part.video][part.tokens] = scores.to(found[part.video])
        return found

    def _run(self, features: Tensor, layouts: list[Layout], grid: tuple[int, int, int]) -> Tensor:
        """Frame sets of one form side by side, [B, v, D], queries padded at their end: float32 [B, v]."""
        longest = max(layouts, key=lambda layout: layout.query_rows)
        embeddings, where, deepstack = self._inputs(features, layouts, grid)
        rows = torch.tensor([layout.query_rows for layout in layouts])
        counts = None if bool((rows == longest.query_rows).all()) else rows
        probe = Probe(self.layer, longest.query_rows, longest.span, self.reduction, counts)
        found = probed_scores(self.decoder, embeddings, where, probe, **deepstack)
        return found[:, longest.visual[longest.span].to(found.device)]

    def _stacked(self, videos: list[EncodedVideo], sets: list[FrameSet]) -> tuple[Tensor, tuple[int, int, int]]:
        """The features of frame sets of one form, [B, v, D], where they are needed now, and the grid of each."""
        features = torch.stack([videos[s.video].features[s.tokens] for s in sets]).to(self.lm.device)
        first = videos[sets[0].video]
        return features, (features.shape[1] // first.tokens_per_unit, *first.grid[1:])

    def _inputs(
        self, features: Tensor, layouts: list[Layout], grid: tuple[int, int, int]
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Embeddings [B, N, D], positions [B, N] or [P, B, N], and keywords for deepstack."""
        longest = max(layouts, key=lambda layout: layout.query_rows)
        ids = pad_sequence([layout.ids for layout in layouts], batch_first=True)
        embeddings, deepstack = merged(self.embed, ids, longest.visual, features)
        return embeddings, self._positions(longest, grid, len(ids)), deepstack

    def _positions(self, layout: Layout, grid: tuple[int, int, int], count: int) -> Tensor:
        where = self.lm.position_ids(layout, grid, seconds_per_unit=1.0).to(self.lm.device)
        return where[:, None].expand(-1, count, -1) if len(where) > 1 else where.expand(count, -1)

    def _batches(
        self, views: Sequence[tuple[EncodedVideo, Tensor]], sets: Sequence[list[Tensor]]
    ) -> Iterator[list[FrameSet]]:
        """Frame sets of one form, up to their query, as many as go together."""
        alike: dict[tuple, list[FrameSet]] = {}
        for v, ((video, query), of_video) in enumerate(zip(views, sets)):
            for tokens in of_video:
                units = (tokens[:: video.tokens_per_unit] // video.tokens_per_unit).tolist()
                layout = video.layout(query, self.lm.visual_id, units)
                form = layout.visual[: layout.span.stop].numpy().tobytes(), video.grid[1:]
                alike.setdefault(form, []).append(FrameSet(v, tokens, layout))
        for group in alike.values():
            size = max(1, self.tokens_per_batch // max(len(s.layout.ids) for s in group))
            yield from (group[first : first + size] for first in range(0, len(group), size))
