"""Statistics of results: accuracies, their intervals, and a test whether two runs differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

Z = 1.959964  # 95 % of a normal distribution lies within this number of standard deviations


def accuracy(groups: Mapping[str, Sequence[bool]], macro: bool = False) -> float:
    """Return the share of right answers; NaN if there are no questions.

    Args:
        groups: whether each answer is right, by group.
        macro: whether to average the groups' shares; False takes the share over all questions.
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
    """Compute the 95 % bootstrap interval of an accuracy.

    Whole videos are resampled, because questions about one video tend to succeed and fail together; resampling single
    questions would make the interval too narrow.

    Args:
        right: whether the answer to each question is right.
        videos: video of each question.
        groups: group of each question, to average the groups' shares; None takes the share over all questions.
        draws: number of bootstrap draws.
        seed: seed of the random draws.

    Returns:
        Lower and upper end. NaN if there are fewer than two videos, because one video does not show how others vary. If
        all answers are right or all are wrong, all draws are equal: Wilson's interval for the number of videos.
    """
    if len(set(videos)) < 2:
        return math.nan, math.nan
    names, video_ids = np.unique(np.asarray(videos), return_inverse=True)
    group_ids = np.zeros(len(right), int) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    hits, counts = (np.zeros((len(names), group_ids.max() + 1)) for _ in range(2))  # [videos, groups]
    np.add.at(hits, (video_ids, group_ids), np.asarray(right, float))
    np.add.at(counts, (video_ids, group_ids), 1.0)
    drawn = np.random.default_rng(seed).integers(0, len(names), (draws, len(names)))
    hit, count = hits[drawn].sum(1), counts[drawn].sum(1)  # [draws, groups]
    with np.errstate(invalid="ignore"):
        shares = np.nanmean(hit / count, axis=1)
    low, high = (float(end) for end in np.nanquantile(shares, (0.025, 0.975)))
    if low == high and low in (0.0, 1.0):
        return wilson(low, len(names))
    return low, high


def wilson(share: float, count: int) -> tuple[float, float]:
    """Compute Wilson's 95 % interval of a share of `count` independent trials; its width is above 0 even at 0 and 1."""
    spread = Z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def mcnemar(one: Sequence[bool], other: Sequence[bool]) -> float:
    """Compute the exact two-sided p-value of McNemar's test that two runs over the same questions are equally good.

    Only the n questions that exactly one run has right matter. If the first run has b right and the second n - b, the
    p-value is the probability of a split at least as uneven when both sides are equally likely.
    """
    if len(one) != len(other):
        raise ValueError(f"two runs over the same questions are needed, got {len(one)} and {len(other)}")
    first, second = np.asarray(one, bool), np.asarray(other, bool)
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    return min(1.0, 2 * tail)
