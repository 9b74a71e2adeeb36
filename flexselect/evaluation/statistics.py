"""How sure a number is: intervals for accuracies, and whether two runs differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

Z = 1.959964  # of the normal distribution, 95 % of which lies within so many deviations


def accuracy(groups: Mapping[str, Sequence[bool]], macro: bool = False) -> float:
    """Share of right answers: over all questions, or the mean of the groups' shares (macro); NaN where there are none.

    Args:
        groups: right or wrong, question by question, by group.
        macro: every group counts alike.
    """
    filled = [list(group) for group in groups.values() if len(group)]
    if not filled:
        return math.nan
    if macro:
        return float(np.mean([np.mean(group) for group in filled]))
    return float(np.mean(np.concatenate(filled)))


def interval(
    right: Sequence[bool], videos: Sequence[str], groups: Sequence[str] | None = None, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of an accuracy.

    Whole videos are drawn, since questions about one video succeed and fail together; questions drawn one by one would
    make the interval too narrow.

    Args:
        right: by question.
        videos: which video each is about.
        groups: of each question, for the mean of the groups' shares; None: over all questions.
        draws: of the bootstrap.
        seed: of it.

    Returns:
        Lower and upper end; NaN for no question, and for those of one video alone: nothing says how others would do.
        Where all are right, or all wrong, every draw is the same: then Wilson's interval of as many videos.
    """
    if len(set(videos)) < 2:
        return math.nan, math.nan
    names, video = np.unique(np.asarray(videos), return_inverse=True)
    kinds = np.zeros(len(right), int) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    hits, counts = (np.zeros((len(names), kinds.max() + 1)) for _ in range(2))
    np.add.at(hits, (video, kinds), np.asarray(right, float))
    np.add.at(counts, (video, kinds), 1.0)
    drawn = np.random.default_rng(seed).integers(0, len(names), (draws, len(names)))
    hit, count = hits[drawn].sum(1), counts[drawn].sum(1)  # [draws, kinds]
    with np.errstate(invalid="ignore"):
        shares = np.nanmean(hit / count, axis=1)
    low, high = (float(end) for end in np.nanquantile(shares, (0.025, 0.975)))
    if low == high and low in (0.0, 1.0):
        return wilson(low, len(names))
    return low, high


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `count` independent trials; it has a width at 0 and at 1, too."""
    spread = Z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def mcnemar(one: Sequence[bool], other: Sequence[bool]) -> float:
    """Exact two-sided p-value that two runs over the same questions are equally good (McNemar's test).

    Only questions that one run has right and the other wrong say anything: of n such, b on one side, it is the chance
    of a split at least as uneven when both sides are equally likely.
    """
    if len(one) != len(other):
        raise ValueError(f"two runs over the same questions are needed, got {len(one)} and {len(other)}")
    first, second = np.asarray(one, bool), np.asarray(other, bool)
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    return min(1.0, 2 * tail)
