"""Select tokens by their scores: top-k per frame set, merged in the order of the video. Needs no model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flexselect.structures.prompt import Selection


def select(scores: Tensor, sets: list[Tensor], budgets: Sequence[int]) -> Selection:
    """Keep the best tokens of each set (FlexSelect, section 3.2).

    Args:
        scores: [V], one score per visual token.
        sets: S disjoint index tensors [*] into the scores.
        budgets: number of tokens to keep per set; at most the set's size.

    Returns:
        The selection; `kept` is strictly ascending. Among equal scores the earlier token is kept, on every device.

    Raises:
        ValueError: if a score is NaN.
    """
    refuse_nan(scores)
    stays = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
    for length in {len(tokens) for tokens in sets}:  # sets of equal length go together
        numbers = [number for number, tokens in enumerate(sets) if len(tokens) == length]
        together = torch.stack([sets[number] for number in numbers]).to(scores.device)  # [S, v]
        highest = _highest(scores[together], [budgets[number] for number in numbers])
        stays[together] = highest.long()
    return Selection(scores=scores.float(), kept=_places(stays, sum(budgets)), sets=sets)


def refuse_nan(scores: Tensor) -> None:
    """Refuse scores of which some are NaN, and say why they may be.

    Raises:
        ValueError: if a score is NaN.
    """
    if torch.isnan(scores).any():
        count = int(torch.isnan(scores).sum())
        raise ValueError(
            f"{count} of {scores.numel()} token scores are NaN. The model overflowed in {scores.dtype}: "
            "load it in bfloat16 or float32, and check that its weights are finite."
        )


def _places(stays: Tensor, count: int) -> Tensor:
    """Return where the `count` ones of a tensor of zeros and ones are, ascending: int64 [count].

    A GPU must be waited for by `nonzero`, which does not know their number.
    """
    number = torch.where(stays == 1, stays.cumsum(0) - 1, count)  # others are written behind the end
    places = torch.arange(len(stays), device=stays.device)
    return places.new_empty(count + 1).scatter_(0, number, places)[:count]


def _highest(scores: Tensor, counts: Sequence[int]) -> Tensor:
    """Return which scores of each row, [S, v], are its highest, so many as `counts` says: bool [S, v].

    Of equal scores the earlier are taken. Which of them topk takes differs by device, so it only tells the lowest.
    """
    count = torch.tensor(counts, device=scores.device)[:, None]
    least = scores.topk(max(1, *counts)).values.gather(1, (count - 1).clamp_min(0))
    higher, equal = scores > least, scores == least
    return higher | (equal & (equal.cumsum(1) <= count - higher.sum(1, keepdim=True)))
