"""Scorers give one float per visual token. They know nothing of budgets.

Training-free, uniform and random selection differ in this object alone, so the controls run in the same code path.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from flexselect.attention import Probe, resolve_reduction, run_probe
from flexselect.choices import check_choice
from flexselect.families.base import VideoLM
from flexselect.families.merging import merged
from flexselect.layout import Layout
from flexselect.partition import frame_sets
from flexselect.prompt import EncodedVideo
from flexselect.selector import LiteSelector


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


class AttentionScorer(Scorer):
    """Attention of the query rows to the visual tokens at one layer of a decoder.

    Each frame set runs alone, between the same prefix and query, with positions of its own as if it were a short
    video of consecutive units 1.0 s apart, as in the released code. Sets have at most two lengths; those of one
    length run together, up to `tokens_per_batch` prompt tokens at a time, without padding.
    """

    def __init__(
        self, lm: VideoLM, layer: int, reduction: str = "max", units_per_set: int = 64, tokens_per_batch: int = 32768
    ) -> None:
        self.lm = lm
        depth = len(self.decoder.layers)
        if not 0 <= layer < depth:
            raise ValueError(f"reference_layer must be between 0 and {depth - 1} for this model, got {layer}")
        self.layer = layer
        self.reduction = resolve_reduction(reduction)
        self.units_per_set = units_per_set
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

    # Final from here on.

    @torch.inference_mode()
    def score(self, encoded: EncodedVideo, query_ids: Tensor) -> Tensor:
        """One float32 [V]: attention probabilities in 0..1."""
        encoded, query_ids = self.view(encoded, query_ids)
        features, scores = encoded.features, torch.empty(encoded.num_tokens, device=encoded.features.device)
        for tokens, ids, layout in self._batches(encoded, query_ids):
            tokens = tokens.to(features.device)
            embeddings, deepstack = merged(self.embed, ids, layout.visual, features[tokens])
            grid = (tokens.shape[1] // encoded.tokens_per_unit, *encoded.grid[1:])
            where = self.lm.position_ids(layout, grid, seconds_per_unit=1.0).to(features.device)
            where = where[:, None].expand(-1, len(ids), -1) if len(where) > 1 else where.expand(len(ids), -1)
            probe = Probe(self.layer, layout.query_rows, layout.span, self.reduction)
            found = run_probe(self.decoder, embeddings, where, probe, **deepstack)
            scores[tokens] = found[:, layout.visual[layout.span].to(found.device)].to(scores)
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


class LiteScorer(AttentionScorer):
    """A trained selector's attention at its last layer: FlexSelect-Lite (section 3.3).

    Args:
        lm: the VideoLLM, whose tower it shares.
        selector: the selector.
        reduction: None: as it was trained.
        units_per_set: see `FlexSelect`.
        alignment: "exact", or "released" for the released InternVL selectors; None: what the selector says.
        tokens_per_batch: see `AttentionScorer`.
    """

    def __init__(
        self,
        lm: VideoLM,
        selector: LiteSelector,
        reduction: str | None = None,
        units_per_set: int = 64,
        alignment: str | None = None,
        tokens_per_batch: int = 32768,
    ) -> None:
        self.selector = selector
        self.alignment = alignment or selector.config.alignment
        check_choice("selector_alignment", self.alignment, ("exact", "released"))
        reduction = reduction or selector.config.reduction
        super().__init__(lm, selector.scored_layer, reduction, units_per_set, tokens_per_batch)

    @property
    def decoder(self) -> Any:
        """The selector's."""
        return self.selector.decoder

    def embed(self, ids: Tensor) -> Tensor:
        """The selector's own."""
        return self.selector.embed(ids)

    def view(self, encoded: EncodedVideo, query_ids: Tensor) -> tuple[EncodedVideo, Tensor]:
        """The selector's own visual tokens, and the text in its own ids where it has its own tokenizer."""
        prefix, query = encoded.selector_text or (self._read(encoded.prefix_ids), self._read(query_ids))
        assert encoded.seen is not None, "encoded without the selector"
        return replace(encoded, prefix_ids=prefix, features=encoded.seen), query

    def shift(self, encoded: EncodedVideo) -> int:
        """How far the released code's scores are from the tokens they mean, see `Selection.shift`.

        It finds the visual tokens in the selector's ids and cuts them out of the VideoLLM's prompt, whose prefix is
        longer: by <s> at least. The released InternVL selector was trained with the same slip, so it fits.
        """
        if self.alignment == "exact":
            return 0
        prefix, _ = encoded.selector_text or (self._read(encoded.prefix_ids), None)
        return len(encoded.prefix_ids) - len(prefix)

    def split(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """A prompt in the selector's ids, [1, N] or [N], to its prefix and query."""
        first, last = self.selector.config.brackets
        places = ((ids.flatten() == first) | (ids.flatten() == last)).nonzero().flatten()
        if not len(places):
            raise ValueError(f"selector_input_ids has no <img> and </img> (ids {first}, {last})")
        return ids.flatten()[: int(places[0])], ids.flatten()[int(places[-1]) + 1 :]

    def _read(self, ids: Tensor) -> Tensor:
        """The VideoLLM's text ids in the selector's vocabulary; the same ids where it has no tokenizer of its own."""
        if not self.selector.config.own_tokenizer:
            return ids
        tokenizer = self.lm.prompter.tokenizer
        text = tokenizer.decode([i for i in ids.tolist() if i != tokenizer.bos_token_id], skip_special_tokens=False)
        return torch.tensor(self.selector.tokenizer(text, add_special_tokens=False).input_ids, dtype=torch.long)


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
