"""Share the budget of a question by its scores: by how much stands out of each frame set's own background.

The published rule gives each set K / S tokens, whatever its scores say. These rules need no model, and are off by
default: docs/LOG.md has what they change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from flexselect.options import Options
from flexselect.scoring.frame_sets import share_budget, split_budget
from flexselect.scoring.selection import refuse_nan

STANDS_OUT = 2.0  # standard deviations of a frame set's background, from which a token has mass
LEAST_SPREAD = 0.05  # of the background, in logarithms: below it all scores are as good as equal
FLOOR = 4  # with `budget_mass` at least this part of K is kept


def by_mass(options: Options) -> str | None:
    """Return the option that shares a budget by scores, with its value; None: there is none."""
    if options.budget_mass is not None:
        return f"budget_mass={options.budget_mass}"
    return "budget_split=mass" if options.budget_split == "mass" else None


def above_background(values: Tensor, sets: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Measure how far values stand out of the background of their frame set.

    Frame sets are scored apart, each by a softmax of its own, so a score means another thing in each. The background of
    a set is the median of the logarithms of its scores; its spread is the median distance from there. Both ignore the
    few that stand out, and the ratio to the background is free of the softmax's denominator.

    Args:
        values: one score per token or per unit, [n].
        sets: the places of each frame set in `values`: index tensors [*] of at most two lengths.

    Returns:
        float64 [n] each, on the CPU: the distance from the background in standard deviations, and the logarithm of the
        ratio to it. Of a value in no set they are -inf and 0.
    """
    values = values.cpu().double()
    level = values.clamp_min(1e-12).log() if bool((values >= 0).all()) else values
    by_length: dict[int, list[Tensor]] = {}
    for places in sets:
        by_length.setdefault(len(places), []).append(places)
    distance, ratio = torch.full_like(level, -torch.inf), torch.zeros_like(level)
    for group in by_length.values():
        places = torch.stack(group).cpu()  # [S, n]
        above = level[places] - level[places].median(1, keepdim=True).values
        spread = 1.4826 * above.abs().median(1, keepdim=True).values
        distance[places] = above / spread.clamp_min(LEAST_SPREAD)
        ratio[places] = above
    return distance, ratio


def excess_of(ratio: Tensor) -> Tensor:
    """Return the factor above the background less one, at least 0, from the logarithm of the ratio to it."""
    return ratio.clamp(0, 50).exp() - 1


def masses_of(scores: Tensor, sets: Sequence[Tensor]) -> Tensor:
    """Return how much of each token's score is above the background of its frame set: float64 [V], mostly zeros."""
    distance, ratio = above_background(scores, sets)
    return excess_of(ratio).where(distance >= STANDS_OUT, 0.0)


def split_by_mass(budget: int, masses: Tensor, sets: Sequence[Tensor]) -> list[int]:
    """Split a budget among sets: each gets as many tokens as it has among those with the most mass.

    If fewer tokens have mass, the rest is split by the sizes of what is left, as in `split_budget`. So scores that are
    all equal are split as if there were none. No set gets more than its size, and the parts sum to min(budget, V).

    Args:
        budget: K.
        masses: the output of `masses_of`, [V].
        sets: the visual tokens of each frame set.
    """
    order = masses.sort(descending=True, stable=True).indices[:budget]
    taken = torch.zeros(len(masses), dtype=torch.long)
    taken[order[masses[order] > 0]] = 1
    counts = [int(taken[tokens.cpu()].sum()) for tokens in sets]
    left = min(budget, len(masses)) - sum(counts)
    if not left:
        return counts
    more = split_budget(left, [len(tokens) - count for tokens, count in zip(sets, counts)])
    return [count + extra for count, extra in zip(counts, more)]


def fewest_with_mass(budget: int, masses: Tensor, share: float) -> int:
    """Count the fewest tokens that carry a share of all mass: at least K / 4, at most K, and K if there is no mass.

    Args:
        budget: K.
        masses: the output of `masses_of`, [V].
        share: above 0 and up to 1.
    """
    carried = masses.sort(descending=True).values.cumsum(0)
    if not carried[-1]:
        return budget
    enough = int((carried < share * carried[-1]).sum()) + 1
    return min(budget, max(enough, math.ceil(budget / FLOOR)))


def set_budgets(
    scores: Tensor, sets: Sequence[Tensor], budget: int, multiple: int, split: str, share: float | None
) -> list[int]:
    """Decide how many tokens of each frame set a question keeps.

    Args:
        scores: [V], one score per visual token.
        sets: the visual tokens of each frame set.
        budget: K; with `share` the most that are kept.
        multiple: see `split_budget_released`.
        split: "exact", "released" or "mass".
        share: keep only so many tokens as `fewest_with_mass` counts, those with the most mass; None: K. Where it counts
            K, tokens are kept as without it.

    Raises:
        ValueError: if a score is NaN.
    """
    sizes = [len(tokens) for tokens in sets]
    if split != "mass" and share is None:
        return share_budget(split, budget, sizes, multiple)
    scores = scores.cpu()  # a GPU is waited for once
    refuse_nan(scores)
    masses, budget = masses_of(scores, sets), min(budget, sum(sizes))
    count = budget if share is None else fewest_with_mass(budget, masses, share)
    if split != "mass" and count == budget:
        return share_budget(split, budget, sizes, multiple)
    return split_by_mass(count, masses, sets)
