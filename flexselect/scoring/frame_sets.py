"""Frame sets and their budgets: integers only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

BUDGET_SPLITS = ("exact", "released")


def frame_sets(num_units: int, tokens_per_unit: int, units_per_set: int) -> list[Tensor]:
    """Split a video into interleaved sets that each see the whole of it, thinned out (FlexSelect, section 3.2).

    Set g of G = ceil(U / units_per_set) holds the units g, g+G, g+2G, ...; lengths differ by at most one unit.

    Args:
        num_units: U.
        tokens_per_unit: visual tokens in each unit.
        units_per_set: the most units in a set.

    Returns:
        G index tensors, int64 [*], ascending; together they hold each of the V visual tokens once.
    """
    if units_per_set < 1:
        raise ValueError(f"units_per_set must be at least 1, got {units_per_set}")
    num_sets = math.ceil(num_units / units_per_set)
    tokens = torch.arange(num_units * tokens_per_unit).view(num_units, tokens_per_unit)
    return [tokens[first::num_sets].reshape(-1) for first in range(num_sets)]


def split_budget(budget: int, set_sizes: Sequence[int]) -> list[int]:
    """Share a budget over sets in proportion to their sizes; the shares sum to min(budget, total).

    Largest remainders get the tokens that rounding down leaves over, earlier sets first, so no set is given more than
    it holds. (The released code gives each set int(budget / S), loses the rest, and fails where a set holds less: see
    `split_budget_released`.)
    """
    if budget < 1:
        raise ValueError(f"budget must be at least 1 visual token, got {budget}")
    total = sum(set_sizes)
    budget = min(budget, total)
    shares = [budget * size // total for size in set_sizes]
    by_remainder = sorted(range(len(set_sizes)), key=lambda g: -(budget * set_sizes[g] % total))
    for g in by_remainder[: budget - sum(shares)]:
        shares[g] += 1
    return shares


def split_budget_released(budget: int, set_sizes: Sequence[int], multiple: int = 1) -> list[int]:
    """The released code's split: the same int(budget / S) for each set, here capped at the set's size.

    Args:
        budget: K.
        set_sizes: visual tokens in each set.
        multiple: the budget is first rounded up to this multiple (Qwen2.5-VL: the tokens of a unit).
    """
    if budget < 1:
        raise ValueError(f"budget must be at least 1 visual token, got {budget}")
    budget = math.ceil(budget / multiple) * multiple
    return [min(budget // len(set_sizes), size) for size in set_sizes]


def share_budget(split: str, budget: int, set_sizes: Sequence[int], multiple: int) -> list[int]:
    """One of the two, by name."""
    if split == "exact":
        return split_budget(budget, set_sizes)
    return split_budget_released(budget, set_sizes, multiple)
