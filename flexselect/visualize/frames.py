"""The frames that mattered: heat maps, kept tokens lit, and where in the video they lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flexselect.visualize.look import Look, stretched
from flexselect.visualize.style import BARS, HEAT, WARM, clock_time, drawing, time_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

DIMMED = 0.3  # brightness of what was dropped
COLUMNS, WIDE = 6, 1.5  # frames in a line, and inches of each

Painter = Callable[[np.ndarray, int], np.ndarray]  # a frame uint8 [h, w, 3] and its unit, to what is shown of it


def kept_tokens(path: str | Path, look: Look, title: str = "", units: int = 12, columns: int = COLUMNS) -> None:
    """Draw the units with the best scores, kept tokens lit and dropped ones dim, above a timeline.

    Args:
        path: PNG to write.
        look: see `look_at`.
        title: written above, the question and answer for one.
        units: how many units are drawn, in the order of the video.
        columns: frames in a line.
    """
    title = title or f"{look.kept_by_unit.sum()} tokens kept"
    _frames_and_timeline(path, look, title, units, columns, lambda frame, unit: light(frame, look.kept[unit]), False)


def heat_map(path: str | Path, look: Look, title: str = "", units: int = 12, columns: int = COLUMNS) -> None:
    """Draw the units with the best scores, coloured by the score of each token, above a timeline.

    Colours go by the square root of the score, for few tokens have most of it.

    Args:
        path: PNG to write.
        look: see `look_at`.
        title: written above, the question and answer for one.
        units: how many units are drawn, in the order of the video.
        columns: frames in a line.
    """
    paint = painter(look)
    _frames_and_timeline(path, look, title or "Score of each token", units, columns, paint, True)


def timeline(path: str | Path, look: Look, title: str = "") -> None:
    """Draw how many tokens of each unit are kept, and its best score, along the video.

    Args:
        path: PNG to write.
        look: see `look_at`.
        title: written above.
    """
    with drawing(path, 9, 2.4, title) as figure:
        draw_timeline(figure.add_subplot(), look)


def painter(look: Look) -> Painter:
    """Colours frames by the scores of their tokens, on one scale for the whole video."""
    from matplotlib import colormaps

    low, high, colours = float(look.scores.min()), float(look.scores.max()), colormaps[HEAT]

    def paint(frame: np.ndarray, unit: int) -> np.ndarray:
        share = np.sqrt((look.scores[unit] - low) / (high - low or 1.0))
        share = stretched(share, *frame.shape[:2])[..., None]  # [h, w, 1]
        grey = 30 + frame.mean(-1, keepdims=True) * 0.4  # dull, so that a score is not mistaken for a bright frame
        colour, weight = 255 * colours(share[..., 0])[..., :3], 0.4 + 0.5 * share
        return (grey * (1 - weight) + colour * weight * (0.8 + grey / 660)).astype(np.uint8)  # 660: at most 1 in all

    return paint


def light(frame: np.ndarray, lit: np.ndarray) -> np.ndarray:
    """A frame uint8 [h, w, 3] with tokens that are not lit [rows, columns] dimmed."""
    bright = np.where(stretched(lit, *frame.shape[:2])[..., None], 1.0, DIMMED)
    return (frame * bright).astype(np.uint8)


def line_height(frame: np.ndarray, wide: float) -> float:
    """Inches of a line of frames that are `wide` inches each, with their titles; of tall ones they are narrower."""
    return min(wide * frame.shape[0] / frame.shape[1], 1.4 * wide, 2.4) + 0.25


def draw_frames(
    figure: Figure | SubFigure, look: Look, frames: dict[int, np.ndarray], paint: Painter, columns: int
) -> list[Axes]:
    """Draw the frames of some units, by unit, `columns` a line."""
    axes = []
    for place, (unit, frame) in enumerate(frames.items()):
        axis = figure.add_subplot(-(-len(frames) // columns), columns, place + 1)
        axis.imshow(paint(frame, unit))
        when = f"unit {unit}" if look.seconds is None else clock_time(look.seconds[unit])
        axis.set_title(f"{when}, score {look.best[unit]:.2g}" if look.scored else when, fontsize=7)
        axis.axis("off")
        axes.append(axis)
    return axes


def draw_timeline(axis: Axes, look: Look) -> None:
    """Draw kept tokens by unit as bars, and the best score as a line."""
    from matplotlib.ticker import MaxNLocator

    axis.stairs(look.kept_by_unit, look.edges, fill=True, color=BARS)
    axis.set(ylabel="tokens kept", xlim=(look.edges[0], look.edges[-1]), ylim=(0, None))
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    time_axis(axis, look.seconds)
    if not look.scored:
        return
    twin = axis.twinx()
    twin.stairs(look.best, look.edges, color=WARM, baseline=None, linewidth=0.8)
    twin.set_ylabel("best score", color=WARM)
    twin.set_ylim(0, None)


def _frames_and_timeline(
    path: str | Path, look: Look, title: str, units: int, columns: int, paint: Painter, with_scale: bool
) -> None:
    shown = look.best_units(units)
    frames = dict(zip(shown, look.frames(shown)))
    lines, tall = -(-len(shown) // columns), line_height(frames[shown[0]], WIDE)
    with drawing(path, WIDE * columns, lines * tall + 2.2, title) as figure:
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[lines * tall, 1.8])[:, 0]
        axes = draw_frames(above, look, frames, paint, min(columns, max(3, len(shown))))
        if with_scale:
            _draw_scale(above, axes, look)
        draw_timeline(below.add_subplot(), look)


def _draw_scale(figure: SubFigure, axes: list[Axes], look: Look) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import PowerNorm

    norm = PowerNorm(0.5, float(look.scores.min()), float(look.scores.max()))
    figure.colorbar(ScalarMappable(norm, HEAT), ax=axes, label="score (square-root scale)", aspect=30)
