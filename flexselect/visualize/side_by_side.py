"""Compare two rankings of one video, for example a selector's and its teacher's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from flexselect.ranking import overlap_at_k, spearman
from flexselect.visualize.frames import draw_frames, line_height, painter
from flexselect.visualize.style import DARK, PALE, WARM, drawing, time_axis
from flexselect.visualize.token_map import TokenMap

if TYPE_CHECKING:
    from flexselect.visualize.picture import Picture


def side_by_side(one: TokenMap, other: TokenMap, names: tuple[str, str], title: str = "", units: int = 6) -> Picture:
    """Draw two rankings of one video: heat maps of the same units, best scores over time, rank against rank.

    Args:
        one: the ranking whose best units are drawn, for example the teacher's.
        other: the other ranking, for example the selector's.
        names: names of the two rankings.
        title: title of the picture.
        units: number of units to draw.
    """
    shown = one.best_units(units)
    frames = dict(zip(shown, one.frames(shown)))  # both rankings are of the same video
    tall = line_height(frames[shown[0]], 9 / max(4, len(shown))) + 0.25
    with drawing(9, 2 * tall + 2.9, title) as figure:
        upper, lower, below = figure.subfigures(3, 1, squeeze=False, height_ratios=[tall, tall, 2.6])[:, 0]
        for part, token_map, name in ((upper, one, names[0]), (lower, other, names[1])):
            part.suptitle(name, fontsize=8, x=0.01, ha="left")
            draw_frames(part, token_map, frames, painter(token_map), max(4, len(shown)))
        along, ranks = below.subplots(1, 2, width_ratios=[2.2, 1])
        for token_map, name, colour, line in ((one, names[0], DARK, "-"), (other, names[1], WARM, "--")):
            share = token_map.best / (token_map.best.max() or 1.0)
            along.stairs(share, token_map.edges, baseline=None, color=colour, linestyle=line, label=name)
        along.set(ylabel="best score (share)", xlim=(one.edges[0], one.edges[-1]), ylim=(0, 1.05))
        along.legend(loc="upper right")
        time_axis(along, one.seconds)
        scores = [torch.from_numpy(token_map.scores).flatten() for token_map in (one, other)]
        places = [ranking.argsort(descending=True).argsort() / max(1, len(ranking) - 1) for ranking in scores]
        ranks.plot(*(place.numpy() for place in places), ".", markersize=1.5, color=PALE, rasterized=True)
        k = max(1, int(one.kept.sum()))
        agreement = (
            f"Spearman {spearman(*scores):.2f}, overlap of best {k}: {overlap_at_k(scores[0], scores[1], k):.2f}"
        )
        ranks.set(xlabel=f"rank by {names[0]} (0: best)", ylabel=f"rank by {names[1]}", title=agreement, aspect="equal")
    return figure
