"""The order of tokens in a prompt: text, visual tokens, and the delimiters around each unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

Delimiters = tuple[Tensor, Tensor]  # the text before and after one unit: ids, int64 [*]


@dataclass(frozen=True)
class Layout:
    """The tokens of a prompt, in order."""

    ids: Tensor  # int64 [N], the text; a placeholder stands for each visual token
    visual: Tensor  # bool [N], true for visual tokens
    unit: Tensor  # int64 [N], the unit of a token, delimiters included; -1 for prefix and query

    @property
    def span(self) -> slice:
        """The range from the first visual token to the last."""
        return slice(int(self._visual_places[0]), int(self._visual_places[-1]) + 1)

    @property
    def places(self) -> Tensor:
        """The places of the visual tokens in `span`: int64 [v]."""
        return self._visual_places - self.span.start

    @cached_property
    def query_rows(self) -> int:
        """Q, the number of text tokens after the video: a text that closes the last unit, such as its time, is none."""
        return len(self.ids) - 1 - int((self.unit >= 0).nonzero()[-1])

    @property
    def before_query(self) -> Layout:
        """The layout up to the last visual token: the part that does not depend on the question."""
        stop = self.span.stop
        return Layout(self.ids[:stop], self.visual[:stop], self.unit[:stop])

    def with_query(self, query_ids: Tensor) -> Layout:
        """Return a copy with a query, int64 [Q], appended."""
        text = torch.zeros(len(query_ids), dtype=torch.bool)
        unit = torch.full((len(query_ids),), -1)
        parts = (self.ids, query_ids), (self.visual, text), (self.unit, unit)
        return Layout(*(torch.cat([part.cpu() for part in pair]) for pair in parts))

    @cached_property
    def _visual_places(self) -> Tensor:
        return self.visual.nonzero().flatten()

    @cached_property
    def _last_unit(self) -> int:
        return int(self.unit.max())

    def kept_mask(self, kept: Tensor, shift: int = 0) -> Tensor:
        """Return which prompt tokens stay if only some visual tokens are kept: bool [N].

        The delimiters of a unit are dropped if none of its tokens is kept. All other text stays.

        Args:
            kept: indices of the kept visual tokens, int64 [K].
            shift: see `Selection.shift`.
        """
        candidates = self._visual_places
        kept = candidates[kept.to(candidates.device)]
        shown = torch.zeros(self._last_unit + 2, dtype=torch.bool, device=self.unit.device)
        shown[self.unit[kept]] = True
        shown[-1] = True  # the text around the video: its unit is -1
        stays = shown[self.unit] | self.visual
        stays[candidates - shift] = False
        stays[kept - shift] = True
        return stays


def lay_out(
    prefix: Tensor,
    query: Tensor,
    units: Sequence[int],
    tokens_per_unit: int,
    placeholder: int,
    delimiters: Sequence[Delimiters] = (),
) -> Layout:
    """Lay out a prompt: prefix, units, query.

    Args:
        prefix: int64 [A], the text before the video.
        query: int64 [Q], the text after the video.
        units: numbers of the clip's units to include.
        tokens_per_unit: visual tokens per unit.
        placeholder: the id that stands for a visual token.
        delimiters: the text around each of the clip's units; empty if there is none.
    """
    if not delimiters:
        visual_units = torch.tensor(units, dtype=torch.long).repeat_interleave(tokens_per_unit)
        ids = torch.cat([prefix.cpu(), torch.full((len(visual_units),), placeholder), query.cpu()])
        unit = torch.cat([torch.full((len(prefix),), -1), visual_units, torch.full((len(query),), -1)])
        return Layout(ids, unit >= 0, unit)
    placeholders = torch.full((tokens_per_unit,), placeholder)
    parts = [(prefix.cpu(), -1, False)]
    for number in units:
        before, after = delimiters[number]
        parts += [(before.cpu(), number, False), (placeholders, number, True), (after.cpu(), number, False)]
    parts.append((query.cpu(), -1, False))
    lengths = torch.tensor([len(ids) for ids, _, _ in parts])
    return Layout(
        torch.cat([ids for ids, _, _ in parts]),
        torch.tensor([visual for _, _, visual in parts]).repeat_interleave(lengths),
        torch.tensor([unit for _, unit, _ in parts]).repeat_interleave(lengths),
    )
