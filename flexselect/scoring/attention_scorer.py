"""Scores from the attention of query rows to visual tokens at one layer of a decoder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from flexselect.attention.layers import attention_layers, check_layer, mlp_width, states_bytes
from flexselect.attention.probe import Probe, probed_scores, resolve_reduction, states_before
from flexselect.attention.states import Past, join
from flexselect.families.base import VideoLM
from flexselect.loading.placement import device_of, free_bytes
from flexselect.running.merging import merge_embeddings
from flexselect.running.operations import Decoder
from flexselect.scoring.prefix_cache import FrameSet, PrefixCache
from flexselect.scoring.scorer import Scorer
from flexselect.structures.layout import Layout
from flexselect.structures.prompt import EncodedVideo

NO_QUERY = torch.empty(0, dtype=torch.long)
STORED_TOGETHER = 32768  # prompt tokens whose keys and values are kept in one tensor, also in session files
KNOWN_ROWS = 256  # positions after a video that are computed once; a longer question computes its own
CPU_TOKENS = 8192  # prompt tokens per batch on a CPU: enough to hide the cost of calls, less than a published set
GPU_SHARE = 0.25  # of the free memory of a GPU, for the activations of a batch


class AttentionScorer(Scorer):
    """Attention of the query rows to the visual tokens at one layer of a decoder.

    Each frame set is scored separately, between the same prefix and query. As in the released code, its positions are
    those of a short video of consecutive units, 1.0 s apart. Sets have at most two lengths. Sets of equal length run in
    one batch, without padding.

    Args:
        lm: the VideoLLM.
        layer: the decoder layer whose attention gives the scores, 0-based.
        reduction: "max" or "mean", over heads and query rows.
        tokens_per_batch: see `ScoringOptions`.
    """

    def __init__(self, lm: VideoLM, layer: int, reduction: str = "max", tokens_per_batch: int | None = None) -> None:
        self.lm = lm
        check_layer(layer, attention_layers(self.decoder.config))
        self.layer = layer
        self.reduction = resolve_reduction(reduction)
        self.tokens_per_batch = tokens_per_batch

    @property
    @abstractmethod
    def decoder(self) -> Any:
        """The decoder whose attention gives the scores."""

    @abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """Embed text ids [...] for the decoder: [..., D]."""

    @abstractmethod
    def view(self, encoded: EncodedVideo, query_ids: Tensor) -> tuple[EncodedVideo, Tensor]:
        """Convert the video and the query, int64 [Q], to the decoder's visual tokens and ids."""

    @property
    def provenance(self) -> dict[str, Any]:
        """Provenance of the prefix cache besides the video and the VideoLLM. Subclasses may extend only this."""
        return {"layer": self.layer, "tokens_per_batch": STORED_TOGETHER}

    # Subclasses must not override the members below.

    @property
    def device(self) -> torch.device:
        """The device that the decoder's inputs are moved to, and that scores are on."""
        return device_of(self.decoder.get_input_embeddings())

    def score(self, encoded: EncodedVideo, query_ids: Tensor) -> Tensor:
        """Score the whole video as one frame set: float32 [V], attention probabilities in 0..1."""
        return self.score_many(encoded, [query_ids], [torch.arange(encoded.num_tokens)])[0]

    @cached_property
    def _shapes(self) -> Decoder:
        return Decoder.of(self.decoder.config)

    def operations(self, tokens: int) -> float:
        """Count the operations of the layers before the one whose attention gives the scores."""
        return self._shapes.operations(tokens, self.layer)

    @torch.inference_mode()
    def score_many(
        self,
        encoded: EncodedVideo,
        queries: Sequence[Tensor],
        sets: list[Tensor],
        prefix_cache: Iterable[PrefixCache] | None = None,
    ) -> list[Tensor]:
        """Score several questions, float32 [V] each: the prefix cache is computed once, then only query rows run."""
        if prefix_cache is None and len(queries) == 1:
            return self.scores([encoded], queries, [sets])
        views = [self.view(encoded, query) for query in queries]
        scores_by_query = [torch.empty(encoded.num_tokens, device=self.device) for _ in queries]
        layers = [device_of(layer) for layer in self.decoder.layers[: self.layer + 1]]
        for part in self.prepare(encoded, sets) if prefix_cache is None else prefix_cache:
            on_devices = part.to_layers(layers)
            for (_, query), scores in zip(views, scores_by_query):
                self._score_rows(query, on_devices, scores)
        return scores_by_query

    @torch.inference_mode()
    def prepare(self, encoded: EncodedVideo, sets: list[Tensor]) -> Iterator[PrefixCache]:
        """Compute the states of prefix and visual tokens up to the reference layer.

        Their size is 2 * layers * key/value width per token: 43 KB for Qwen2.5-VL-7B in bfloat16 up to layer 20. Of a
        hybrid only the layers with attention count, and each frame set adds the recurrent layers' states.

        Args:
            encoded: the video, on any device.
            sets: see `score_many`.

        Yields:
            The prefix cache of a few frame sets.
        """
        video, _ = self.view(encoded, NO_QUERY)
        for empty in self.prefix_cache_layouts(encoded, sets):
            batches = list[Past]()
            for batch in _cut(empty.sets, self._tokens_together()):
                features, grid = self._stack([video], batch)
                layouts = [s.layout.before_query for s in batch]
                embeddings, position_ids, deepstack = self._inputs(features, layouts, grid)
                batches.append(states_before(self.decoder, embeddings, position_ids, self.layer, **deepstack))
            yield replace(empty, past=join(batches))

    def prefix_cache_layouts(self, encoded: EncodedVideo, sets: list[Tensor]) -> Iterator[PrefixCache]:
        """Yield the prefix caches of `prepare` without keys and values, to be filled with stored ones."""
        for batch in self._stored_sets(encoded, sets):
            grid = (len(batch[0].tokens) // encoded.tokens_per_unit, *encoded.grid[1:])
            yield PrefixCache(batch, grid, self._positions_after(batch, grid, KNOWN_ROWS), [])

    def prefix_cache_bytes(self, encoded: EncodedVideo, sets: list[Tensor]) -> int:
        """Return the bytes of all that `prepare` yields, from the decoder's configuration."""
        tokens = sum(len(s.layout.before_query.ids) for batch in self._stored_sets(encoded, sets) for s in batch)
        size = torch.finfo(self.decoder.dtype).bits // 8
        return states_bytes(self.decoder.config, self.layer + 1, tokens, len(sets), size)

    def _stored_sets(self, encoded: EncodedVideo, sets: list[Tensor]) -> Iterator[list[FrameSet]]:
        """Yield the frame sets whose keys and values are kept in one tensor."""
        return self._batches([(self.view(encoded, NO_QUERY)[0], NO_QUERY)], [sets], STORED_TOGETHER)

    def _score_rows(self, query: Tensor, part: PrefixCache, scores: Tensor) -> None:
        """Run only the query rows on a prefix cache, and write the scores of its visual tokens into `scores` [V]."""
        ids = torch.cat([part.tails, query.cpu().expand(len(part.sets), -1)], dim=1)
        rows, position_ids = ids.shape[1], part.positions
        if rows > position_ids.shape[-1]:
            position_ids = self._positions_after(part.sets, part.grid, rows)
        embeddings = self.embed(ids.to(self.device))
        probe = Probe(self.layer, len(query), part.span, self.reduction)
        scores_in_span = probed_scores(self.decoder, embeddings, position_ids[..., :rows], probe, part.past)
        of_tokens = scores_in_span[:, part.places.to(scores_in_span.device)]  # [S, v]
        scores[part.tokens.to(scores.device)] = of_tokens.flatten().to(scores)

    def _positions_after(self, sets: list[FrameSet], grid: tuple[int, int, int], rows: int) -> Tensor:
        """Compute positions of the next tokens after the last visual one: int64 [S, rows] or [P, S, rows]."""
        layout = sets[0].layout.before_query
        layout = layout.with_query(torch.zeros(rows, dtype=torch.long))
        return self._positions(layout, grid, len(sets))[..., layout.span.stop :].contiguous()

    def scores(
        self, videos: Sequence[EncodedVideo], queries: Sequence[Tensor], sets: Sequence[list[Tensor]]
    ) -> list[Tensor]:
        """Score several videos with one query each: float32 [V] per video, with gradients.

        Frame sets of equal shape run in one batch, also those of different videos.
        """
        views = [self.view(video, query) for video, query in zip(videos, queries)]
        scores_by_video = [torch.empty(video.num_tokens, device=self.device) for video, _ in views]
        for batch in self._batches(views, sets, self._tokens_together()):
            features, grid = self._stack([video for video, _ in views], batch)
            for s, set_scores in zip(batch, self._run(features, [s.layout for s in batch], grid)):
                scores_by_video[s.video][s.tokens] = set_scores.to(scores_by_video[s.video])
        return scores_by_video

    def _run(self, features: Tensor, layouts: list[Layout], grid: tuple[int, int, int]) -> Tensor:
        """Score a batch of frame sets of equal shape, [B, v, D]; queries are padded at the end: float32 [B, v]."""
        longest = max(layouts, key=lambda layout: layout.query_rows)
        embeddings, position_ids, deepstack = self._inputs(features, layouts, grid)
        rows = torch.tensor([layout.query_rows for layout in layouts])
        counts = None if bool((rows == longest.query_rows).all()) else rows
        probe = Probe(self.layer, longest.query_rows, longest.span, self.reduction, counts)
        scores_in_span = probed_scores(self.decoder, embeddings, position_ids, probe, **deepstack)
        return scores_in_span[:, longest.places.to(scores_in_span.device)]

    def _stack(self, videos: list[EncodedVideo], sets: list[FrameSet]) -> tuple[Tensor, tuple[int, int, int]]:
        """Stack the features of frame sets of equal shape on the model's device, [B, v, D]; also return their grid."""
        features = torch.stack([videos[s.video].features[s.tokens] for s in sets]).to(self.device)
        first = videos[sets[0].video]
        return features, (features.shape[1] // first.tokens_per_unit, *first.grid[1:])

    def _inputs(
        self, features: Tensor, layouts: list[Layout], grid: tuple[int, int, int]
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Make embeddings [B, N, D], positions [B, N] or [P, B, N], and keyword arguments for deepstack."""
        longest = max(layouts, key=lambda layout: layout.query_rows)
        ids = pad_sequence([layout.ids for layout in layouts], batch_first=True)
        embeddings, deepstack = merge_embeddings(self.embed, ids, longest.visual, features)
        return embeddings, self._positions(longest, grid, len(ids)), deepstack

    def _positions(self, layout: Layout, grid: tuple[int, int, int], count: int) -> Tensor:
        position_ids = self.lm.position_ids(layout, grid, seconds_per_unit=1.0).to(self.device)  # [P, N]
        return position_ids[:, None].expand(-1, count, -1) if len(position_ids) > 1 else position_ids.expand(count, -1)

    def _tokens_together(self) -> int:
        """Return how many prompt tokens run in one batch, see `ScoringOptions.tokens_per_batch`."""
        if self.tokens_per_batch is not None:
            return self.tokens_per_batch
        if self.device.type != "cuda":
            return CPU_TOKENS
        config = self.decoder.config
        per_token = (3 * mlp_width(config) + 8 * config.hidden_size) * torch.finfo(self.decoder.dtype).bits // 8
        return min(STORED_TOGETHER, int(GPU_SHARE * free_bytes(self.device)) // per_token)

    def _batches(
        self, views: Sequence[tuple[EncodedVideo, Tensor]], sets: Sequence[list[Tensor]], together: int
    ) -> Iterator[list[FrameSet]]:
        """Group frame sets whose prompts have the same shape up to the query; cut the groups into batches by tokens."""
        groups: dict[tuple, list[FrameSet]] = {}
        for v, ((video, query), video_sets) in enumerate(zip(views, sets)):
            for tokens in video_sets:
                units = (tokens[:: video.tokens_per_unit] // video.tokens_per_unit).tolist()
                layout = video.layout(query, self.lm.visual_id, units)
                closing = len(layout.ids) - layout.query_rows - layout.span.stop  # text of the last unit
                shape = layout.visual[: layout.span.stop].numpy().tobytes(), closing, video.grid[1:]
                groups.setdefault(shape, []).append(FrameSet(v, tokens, layout))
        for group in groups.values():
            yield from _cut(group, together)


def _cut(sets: list[FrameSet], tokens: int) -> Iterator[list[FrameSet]]:
    """Cut frame sets into batches of at most so many prompt tokens, but of at least one set."""
    size = max(1, tokens // max(len(s.layout.ids) for s in sets))
    yield from (sets[first : first + size] for first in range(0, len(sets), size))
