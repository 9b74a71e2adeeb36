"""Scores from a trained selector: attention at its last layer."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from flexselect.families.base import VideoLM, VisionProjector
from flexselect.loading.fingerprint import weights_hash
from flexselect.loading.placement import gpus_of
from flexselect.loading.text_ids import retokenize
from flexselect.scoring.attention_scorer import AttentionScorer
from flexselect.selectors.lite_selector import LiteSelector
from flexselect.structures.prompt import EncodedVideo
from flexselect.validation import check_choice


class LiteScorer(AttentionScorer):
    """A trained selector's attention at its last layer: FlexSelect-Lite (section 3.3).

    Args:
        lm: the VideoLLM; its vision tower also serves the selector.
        selector: the trained selector.
        reduction: "max" or "mean"; None: as the selector was trained.
        alignment: "exact", or "released" for the released InternVL selectors; None: the selector's setting.
        tokens_per_batch: see `ScoringOptions`.
    """

    def __init__(
        self,
        lm: VideoLM,
        selector: LiteSelector,
        reduction: str | None = None,
        alignment: str | None = None,
        tokens_per_batch: int | None = None,
    ) -> None:
        self.selector = selector
        self.alignment = alignment or selector.config.alignment
        check_choice("selector_alignment", self.alignment, ("exact", "released"))
        reduction = reduction or selector.config.reduction
        super().__init__(lm, selector.scored_layer, reduction, tokens_per_batch)

    @property
    def decoder(self) -> Any:
        """The selector's decoder."""
        return self.selector.decoder

    @property
    def trained(self) -> LiteSelector:
        """The selector."""
        return self.selector

    @cached_property
    def gpus(self) -> set[torch.device]:
        """The GPUs of the selector."""
        return gpus_of(self.selector)

    def embed(self, ids: Tensor) -> Tensor:
        """Embed text ids with the selector's embedding."""
        return self.selector.embed(ids)

    def view(self, encoded: EncodedVideo, query_ids: Tensor) -> tuple[EncodedVideo, Tensor]:
        """Use `selector_features` as visual tokens; convert the text to the selector's ids if its tokenizer differs."""
        prefix, query = encoded.selector_text or (
            self._to_selector_ids(encoded.prefix_ids),
            self._to_selector_ids(query_ids),
        )
        assert encoded.selector_features is not None, "encoded without the selector"
        return replace(encoded, prefix_ids=prefix, features=encoded.selector_features), query

    @property
    def projection(self) -> VisionProjector:
        """The selector's projector."""
        return self.selector.project

    @property
    def teacher(self) -> tuple[int | None, str]:
        """Layer and reduction from the selector's configuration; released selectors do not name their layer."""
        training = self.selector.config.training or {}
        return training.get("layer"), training.get("reduction", self.selector.config.reduction)

    @property
    def provenance(self) -> dict[str, Any]:
        """Provenance of the prefix cache, with the weights of the selector."""
        return {**super().provenance, "selector": weights_hash(str(self.selector.name_or_path))}

    def shift(self, encoded: EncodedVideo) -> int:
        """Return how many places before a scored token the visual token is that it stands for, see `Selection.shift`.

        The released code finds the visual tokens in the selector's ids, but cuts them out of the VideoLLM's prompt.
        That prompt has a longer prefix, by <s> at least. The released InternVL selector was trained with this offset.
        """
        if self.alignment == "exact":
            return 0
        prefix, _ = encoded.selector_text or (self._to_selector_ids(encoded.prefix_ids), None)
        return len(encoded.prefix_ids) - len(prefix)

    def split(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Split a prompt in the selector's ids, [1, N] or [N], into prefix and query."""
        first, last = self.selector.config.brackets
        delimiters = ((ids.flatten() == first) | (ids.flatten() == last)).nonzero().flatten()
        if not len(delimiters):
            raise ValueError(f"selector_input_ids has no <img> and </img> (ids {first}, {last})")
        return ids.flatten()[: int(delimiters[0])], ids.flatten()[int(delimiters[-1]) + 1 :]

    def _to_selector_ids(self, ids: Tensor) -> Tensor:
        """Convert the VideoLLM's text ids to the selector's; unchanged if the selector has no separate tokenizer."""
        if not self.selector.config.own_tokenizer:
            return ids
        return torch.tensor(
            retokenize(self.lm.prompter.tokenizer, self.selector.tokenizer, ids.tolist()), dtype=torch.long
        )
