"""Moments: the parts of a video whose scores stand out of the video's own background."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from flexselect.scoring.mass import above_background, excess_of
from flexselect.structures.answer import Moment
from flexselect.structures.frames import end_of
from flexselect.structures.prompt import EncodedVideo, Selection

STANDS_OUT = 3.0  # standard deviations of a frame set's background, from which a unit is part of a moment
MOST = 5  # moments


def unit_edges(encoded: EncodedVideo) -> Tensor:
    """Return when each unit begins, and when the last one ends: float64 [U + 1].

    A unit lasts from the time of its first frame to that of the next unit; the last one ends with the video, or with
    the part of it that was read. If times are unknown, these are unit numbers.
    """
    seconds, units = encoded.seconds, encoded.num_units
    begins = None if seconds is None else seconds.cpu().double()[:: -(-len(seconds) // units)]
    return edges_of(begins, units, end_of(encoded.about.facts))


def player_offset(facts: Mapping[str, Any] | None) -> float:
    """Return what a browser's player adds to our times, in seconds: it counts from the file's own zero."""
    return float((facts or {}).get("starts_at") or 0.0)


def edges_of(begins: Tensor | None, num_units: int, end: float | None) -> Tensor:
    """Append the end to the times at which units begin, see `unit_edges`: float64 [U + 1].

    Args:
        begins: when each unit begins, float64 [U]; None: unknown.
        num_units: U.
        end: where the video ends; None, or before the last unit: unknown, then the last unit lasts as long as others.
    """
    if begins is None:
        return torch.arange(num_units + 1.0, dtype=torch.float64)
    last = float(begins[-1])
    if end is None or end <= last:
        end = last + (float(begins.diff().mean()) if num_units > 1 else 1.0)
    return torch.cat([begins, torch.tensor([end], dtype=torch.float64)])


def prominence(selection: Selection, num_units: int) -> tuple[Tensor, Tensor]:
    """Measure how far each unit's best score stands out of the background.

    Each unit counts by its best score, see `flexselect.scoring.mass.above_background`.

    Args:
        selection: scores [V], and the frame sets.
        num_units: U.

    Returns:
        float64 [U] each: the distance from the background in standard deviations, and the factor above it less one,
        at least 0. Of a unit in no frame set, which was not looked at, they are -inf and 0.
    """
    scores, per_unit = selection.scores, len(selection.scores) // num_units
    scores = torch.roll(scores, -selection.shift) if selection.shift else scores
    best = scores.view(num_units, per_unit).amax(1)
    units = [tokens[::per_unit] // per_unit for tokens in selection.sets]
    distance, ratio = above_background(best, units)
    return distance, excess_of(ratio)


def find_moments(
    distance: Tensor, excess: Tensor, encoded: EncodedVideo, threshold: float = STANDS_OUT, most: int = MOST
) -> list[Moment]:
    """Find the moments of a question, the most prominent first.

    Args:
        distance: how far units stand out, float64 [U], see `prominence`.
        excess: the factor above the background, float64 [U], see `prominence`.
        encoded: the video.
        threshold: standard deviations of the background from which a unit belongs to a moment.
        most: the maximum number of moments.
    """
    edges = unit_edges(encoded)
    return [moment_of(run, distance, excess, edges) for run in prominent_runs(distance, threshold)[:most]]


def presence(likelihood: float, excess: Tensor, alone: float | None = None) -> float:
    """Measure what speaks for it that a question's object is in the video, in nats.

    This is the logarithm of the odds of the answer, plus that of the factor by which the best score stands out of the
    background, plus, if the moments were proven, that of the odds of the answer from the first moment alone. Of an
    object that is not there, a model is less sure, no score stands out so far, and no moment gives the answer alone.
    All of it depends on the model and the kind of question: `validate` measures the error rates of a threshold where
    annotations say `absent`.

    Args:
        likelihood: of the answer, from all kept tokens.
        excess: the factor above the background, float64 [U], see `prominence`.
        alone: of the answer, from the first moment alone; None: the moments are not proven.
    """
    odds = sum(_log_odds(each) for each in (likelihood, alone) if each is not None)
    return odds + math.log1p(float(excess.max()))


def _log_odds(likelihood: float) -> float:
    sure = min(max(likelihood, 1e-7), 1 - 1e-7)
    return math.log(sure / (1 - sure))


def prominent_runs(distance: Tensor, threshold: float) -> list[tuple[int, int]]:
    """List the runs of units above a threshold, the most prominent first; see `runs_of`."""
    return sorted(runs_of((distance > threshold).tolist()), key=lambda run: -float(distance[slice(*run)].max()))


def moment_of(
    run: tuple[int, int], distance: Tensor, excess: Tensor, edges: Tensor, alone: float | None = None
) -> Moment:
    """Make the moment of a run of units, from the outputs of `prominence` and `unit_edges`."""
    first, stop = run
    weights = excess[first:stop] + 1e-9  # nothing stands out of a part that is tried all the same
    middles = (edges[first:stop] + edges[first + 1 : stop + 1]) / 2
    share = float(excess[first:stop].sum()) / (float(excess.sum()) or 1.0)
    peak = float((middles * weights).sum() / weights.sum())
    return Moment(float(edges[first]), float(edges[stop]), peak, share, (first, stop), alone)


def runs_of(high: Sequence[bool]) -> list[tuple[int, int]]:
    """List the runs of true values: the first place, and the one after the last."""
    runs, first = list[tuple[int, int]](), None
    for place, value in enumerate([*high, False]):
        if value and first is None:
            first = place
        elif not value and first is not None:
            runs.append((first, place))
            first = None
    return runs
