"""Where every token of a prompt stands: text, visual tokens, and the text around each unit of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Delimiters = tuple[Tensor, Tensor]  # the text before and after one unit: ids, int64 [*]


@dataclass(frozen=True)
class Layout:
    """A prompt written out."""

    ids: Tensor  # int64 [N], the text; a placeholder stands for each visual token
    visual: Tensor  # bool [N]
    unit: Tensor  # int64 [N], which unit a token belongs to, brackets included; -1 for prefix and query

    @property
    def span(self) -> slice:
        """From the first visual token to the last."""
        places = self.visual.nonzero().flatten()
        return slice(int(places[0]), int(places[-1]) + 1)

    @property
    def query_rows(self) -> int:
        """Q: all text after the last visual token."""
        return len(self.ids) - self.span.stop

    @property
    def before_query(self) -> Layout:
        """Up to the last visual token: what no question changes."""
        stop = self.span.stop
        return Layout(self.ids[:stop], self.visual[:stop], self.unit[:stop])

    def with_query(self, query_ids: Tensor) -> Layout:
        """The same with a query, int64 [Q], at its end."""
        text = torch.zeros(len(query_ids), dtype=torch.bool)
        unit = torch.full((len(query_ids),), -1)
        parts = (self.ids, query_ids), (self.visual, text), (self.unit, unit)
        return Layout(*(torch.cat([part.cpu() for part in both]) for both in parts))

    def kept_mask(self, kept: Tensor, shift: int = 0) -> Tensor:
        """What is left of the prompt when only some visual tokens are: bool [N].

        The text around a unit goes when none of its tokens is kept; all other text stays.

        Args:
            kept: which visual tokens, int64 [K].
            shift: see `Selection.shift`.
        """
        candidates = self.visual.nonzero().flatten()
        kept = kept.to(candidates.device)
        stays = torch.isin(self.unit, self.unit[candidates[kept]]) | (self.unit == -1) | self.visual
        stays[candidates - shift] = False
        stays[candidates[kept] - shift] = True
        return stays


def lay_out(
    prefix: Tensor,
    query: Tensor,
    units: Sequence[int],
    tokens_per_unit: int,
    placeholder: int,
    delimiters: Sequence[Delimiters] = (),
) -> Layout:
    """Write a prompt out: prefix, units, query.

    Args:
        prefix: int64 [A], the text before.
        query: int64 [Q], the text after.
        units: which of the clip's units.
        tokens_per_unit: visual tokens in each.
        placeholder: the id that stands for a visual token.
        delimiters: the text around each of the clip's units; empty where units stand side by side.
    """
    if not delimiters:
        of_visual = torch.tensor(units, dtype=torch.long).repeat_interleave(tokens_per_unit)
        ids = torch.cat([prefix.cpu(), torch.full((len(of_visual),), placeholder), query.cpu()])
        unit = torch.cat([torch.full((len(prefix),), -1), of_visual, torch.full((len(query),), -1)])
        return Layout(ids, unit >= 0, unit)
    hole = torch.full((tokens_per_unit,), placeholder)
    parts = [(prefix.cpu(), -1, False)]
    for number in units:
        before, after = delimiters[number]
        parts += [(before.cpu(), number, False), (hole, number, True), (after.cpu(), number, False)]
    parts.append((query.cpu(), -1, False))
    lengths = torch.tensor([len(ids) for ids, _, _ in parts])
    return Layout(
        torch.cat([ids for ids, _, _ in parts]),
        torch.tensor([visual for _, _, visual in parts]).repeat_interleave(lengths),
        torch.tensor([unit for _, unit, _ in parts]).repeat_interleave(lengths),
    )
