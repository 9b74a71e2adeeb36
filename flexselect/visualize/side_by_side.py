"""Two rankings of one video: a selector and the teacher it learned from, for one."""

from __future__ import annotations

from pathlib import Path

import torch

from flexselect.ranking import overlap_at_k, spearman
from flexselect.visualize.frames import draw_frames, line_height, painter
from flexselect.visualize.look import Look
from flexselect.visualize.style import DARK, PALE, WARM, drawing, time_axis


def side_by_side(
    path: str | Path, one: Look, other: Look, names: tuple[str, str], title: str = "", units: int = 6
) -> None:
    """Draw two rankings of the same video: heat maps of the same units, best scores along it, rank against rank.

    Args:
        path: PNG to write.
        one: the ranking whose best units are shown, a teacher's.
        other: a selector's.
        names: of both.
        title: written above.
        units: how many units are drawn.
    """
    shown = one.best_units(units)
    frames = dict(zip(shown, one.frames(shown)))  # of the same video for both
    tall = line_height(frames[shown[0]], 9 / max(4, len(shown))) + 0.25
    with drawing(path, 9, 2 * tall + 2.9, title) as figure:
        upper, lower, below = figure.subfigures(3, 1, squeeze=False, height_ratios=[tall, tall, 2.6])[:, 0]
        for part, look, name in ((upper, one, names[0]), (lower, other, names[1])):
            part.suptitle(name, fontsize=8, x=0.01, ha="left")
            draw_frames(part, look, frames, painter(look), max(4, len(shown)))
        along, ranks = below.subplots(1, 2, width_ratios=[2.2, 1])
        for look, name, colour, line in ((one, names[0], DARK, "-"), (other, names[1], WARM, "--")):
            share = look.best / (look.best.max() or 1.0)
            along.stairs(share, look.edges, baseline=None, color=colour, linestyle=line, label=name)
        along.set(ylabel="best score (share)", xlim=(one.edges[0], one.edges[-1]), ylim=(0, 1.05))
        along.legend(loc="upper right")
        time_axis(along, one.seconds)
        scores = [torch.from_numpy(look.scores).flatten() for look in (one, other)]
        places = [found.argsort(descending=True).argsort() / max(1, len(found) - 1) for found in scores]
        ranks.plot(*(place.numpy() for place in places), ".", markersize=1.5, color=PALE, rasterized=True)
        k = max(1, int(one.kept.sum()))
        found = f"Spearman {spearman(*scores):.2f}, overlap of best {k}: {overlap_at_k(scores[0], scores[1], k):.2f}"
        ranks.set(xlabel=f"rank by {names[0]} (0: best)", ylabel=f"rank by {names[1]}", title=found, aspect="equal")
