"""Scores from a trained selector: the attention of its last layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from flexselect.families.base import VideoLM, VisionProjector
from flexselect.loading.fingerprint import weights_hash
from flexselect.loading.text_ids import retokenize
from flexselect.scoring.attention_scorer import AttentionScorer
from flexselect.selectors.lite_selector import LiteSelector
from flexselect.structures.prompt import EncodedVideo
from flexselect.validation import check_choice


class LiteScorer(AttentionScorer):
    """A trained selector's attention at its last layer: FlexSelect-Lite (section 3.3).

    Args:
        lm: the VideoLLM, whose tower it shares.
        selector: the selector.
        reduction: None: as it was trained.
        alignment: "exact", or "released" for the released InternVL selectors; None: what the selector says.
        tokens_per_batch: see `AttentionScorer`.
    """

    def __init__(
        self,
        lm: VideoLM,
        selector: LiteSelector,
        reduction: str | None = None,
        alignment: str | None = None,
        tokens_per_batch: int = 32768,
    ) -> None:
        self.selector = selector
        self.alignment = alignment or selector.config.alignment
        check_choice("selector_alignment", self.alignment, ("exact", "released"))
        reduction = reduction or selector.config.reduction
        super().__init__(lm, selector.scored_layer, reduction, tokens_per_batch)

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
        assert encoded.selector_features is not None, "encoded without the selector"
        return replace(encoded, prefix_ids=prefix, features=encoded.selector_features), query

    @property
    def projection(self) -> VisionProjector:
        """The selector's own projector."""
        return self.selector.project

    @property
    def teacher(self) -> tuple[int | None, str]:
        """As its model card says; the layer that a released selector was trained with is not written down in it."""
        trained = self.selector.config.training or {}
        return trained.get("layer"), trained.get("reduction", self.selector.config.reduction)

    @property
    def provenance(self) -> dict[str, Any]:
        """Also the selector's weights."""
        return {**super().provenance, "selector": weights_hash(str(self.selector.name_or_path))}

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
        return torch.tensor(
            retokenize(self.lm.prompter.tokenizer, self.selector.tokenizer, ids.tolist()), dtype=torch.long
        )
