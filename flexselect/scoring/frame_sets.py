"""Split a video into frame sets, and the budget among them. Works on integers only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def frame_sets(num_units: int, tokens_per_unit: int, units_per_set: int) -> list[Tensor]:
    """Split a video into interleaved frame sets, each a thinned-out copy of the whole video (FlexSelect, section 3.2).

    Set s of S = ceil(U / units_per_set) holds the units s, s+S, s+2S, ...; lengths differ by at most one unit.

    Args:
        num_units: U, the number of units.
        tokens_per_unit: visual tokens per unit.
        units_per_set: the maximum number of units per set.

    Returns:
        S index tensors, int64 [*], ascending; each of the V visual tokens is in exactly one.
    """
    if units_per_set < 1:
        raise ValueError(f"units_per_set must be at least 1, got {units_per_set}")
    num_sets = math.ceil(num_units / units_per_set)
    tokens = torch.arange(num_units * tokens_per_unit).view(num_units, tokens_per_unit)
    return [tokens[first::num_sets].reshape(-1) for first in range(num_sets)]


def split_budget(budget: int, set_sizes: Sequence[int]) -> list[int]:
    """Split a budget among sets in proportion to their sizes; the parts sum to min(budget, total).

    Rounding down leaves tokens over; they go to the sets with the largest remainders, earlier sets first. No set gets
    more than its size. (The released code gives each set int(budget / S), loses the rest, and fails if a set is
    smaller: see `split_budget_released`.)
    """
    if budget < 1:
        raise ValueError(f"budget must be at least 1 visual token, got {budget}")
    total = sum(set_sizes)
    budget = min(budget, total)
    shares = [budget * size // total for size in set_sizes]
    by_remainder = sorted(range(len(set_sizes)), key=lambda s: -(budget * set_sizes[s] % total))
    for s in by_remainder[: budget - sum(shares)]:
        shares[s] += 1
    return shares


def split_budget_released(budget: int, set_sizes: Sequence[int], multiple: int = 1) -> list[int]:
    """Split a budget as the released code does: int(budget / S) for each set, here capped at the set's size.

    Args:
        budget: K.
        set_sizes: visual tokens per set.
        multiple: the budget is first rounded up to this multiple (Qwen2.5-VL: the tokens of a unit).
    """
    if budget < 1:
        raise ValueError(f"budget must be at least 1 visual token, got {budget}")
    budget = math.ceil(budget / multiple) * multiple
    return [min(budget // len(set_sizes), size) for size in set_sizes]


def share_budget(split: str, budget: int, set_sizes: Sequence[int], multiple: int) -> list[int]:
    """Split a budget by the rule that `split` names, "exact" or "released"."""
    if split == "exact":
        return split_budget(budget, set_sizes)
    return split_budget_released(budget, set_sizes, multiple)
