"""The most relevant frames: heat maps, kept tokens, and a timeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from flexselect.visualize.style import BARS, HEAT, WARM, clock_time, drawing, time_axis
from flexselect.visualize.token_map import TokenMap, stretch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from flexselect.visualize.picture import Picture

DIMMED = 0.3  # brightness of dropped tokens
OUTLINE = (255, 140, 20)  # colour around kept tokens: on a dark frame brightness alone does not tell them
HEATED = 0.3, 0.5  # weight of the colour in a heat map, from the lowest score to the highest
COLUMNS, FRAME_WIDTH = 6, 1.5  # frames per line, and inches per frame

Painter = Callable[[np.ndarray, int], np.ndarray]  # maps a frame uint8 [h, w, 3] and its unit to the drawn frame


def kept_tokens(token_map: TokenMap, title: str = "", units: int = 12, columns: int = COLUMNS) -> Picture:
    """Draw units with kept tokens, these outlined and all others dimmed, above a timeline.

    The units are those with the best scores; those of a control are evenly spread.

    Args:
        token_map: the selection on the frames, see `map_tokens`.
        title: title of the picture, for example question and answer.
        units: the most units to draw, in the order of the video.
        columns: frames per line.
    """
    title, shown = title or f"{token_map.kept_by_unit.sum()} tokens kept", token_map.kept_units(units)
    return _frames_and_timeline(
        token_map, title, shown, columns, lambda frame, unit: light(frame, token_map.kept[unit])
    )


def heat_map(token_map: TokenMap, title: str = "", units: int = 12, columns: int = COLUMNS) -> Picture:
    """Draw the units with the best scores, coloured by the scores of their tokens, above a timeline.

    Colours follow the square root of the score, because a few tokens have most of the total score.

    Args:
        token_map: the selection on the frames, see `map_tokens`.
        title: title of the picture, for example question and answer.
        units: number of units to draw, in the order of the video.
        columns: frames per line.
    """
    paint, title = painter(token_map), title or "Score of each token"
    return _frames_and_timeline(token_map, title, token_map.best_units(units), columns, paint, with_scale=True)


def timeline(token_map: TokenMap, title: str = "") -> Picture:
    """Draw the kept tokens and the best score of each unit along the video.

    Args:
        token_map: the selection on the frames, see `map_tokens`.
        title: title of the picture.
    """
    with drawing(9, 2.4, title) as figure:
        draw_timeline(figure.add_subplot(), token_map)
    return figure


def painter(token_map: TokenMap) -> Painter:
    """Return a function that colours frames by the scores of their tokens, on one scale for the whole video.

    The frame stays visible, in dull colours, so that texts and shapes in it can be told.
    """
    from matplotlib import colormaps

    low, high, colours = float(token_map.scores.min()), float(token_map.scores.max()), colormaps[HEAT]

    def paint(frame: np.ndarray, unit: int) -> np.ndarray:
        share = np.sqrt((token_map.scores[unit] - low) / (high - low or 1.0))
        share = stretch(share, *frame.shape[:2])[..., None]  # [h, w, 1]
        dull = 0.4 * (frame + frame.mean(-1, keepdims=True))  # a bright frame must not look like a high score
        colour, weight = 255 * colours(share[..., 0])[..., :3], HEATED[0] + (HEATED[1] - HEATED[0]) * share
        return (dull * (1 - weight) + colour * weight).astype(np.uint8)

    return paint


def light(frame: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Outline the kept tokens [rows, columns] of a frame uint8 [h, w, 3], and dim all others."""
    lit = stretch(kept, *frame.shape[:2])
    picture = (frame * np.where(lit[..., None], 1.0, DIMMED)).astype(np.uint8)
    picture[lit & ~_inside(lit, max(1, round(len(frame) / 120)))] = OUTLINE
    return picture


def _inside(lit: np.ndarray, margin: int) -> np.ndarray:
    """Return which pixels are more than `margin` pixels inside lit areas; the frame's border is a border too."""
    inside = np.pad(lit, margin)
    for axis in (0, 1):
        inside = np.logical_and.reduce([np.roll(inside, step, axis) for step in range(-margin, margin + 1)])
    return inside[margin:-margin, margin:-margin]


def line_height(frame: np.ndarray, width: float) -> float:
    """Return the height in inches of a line of frames, each at most `width` inches wide, with titles."""
    return min(width * frame.shape[0] / frame.shape[1], 1.4 * width, 2.4) + 0.25


def draw_frames(
    figure: Figure | SubFigure,
    token_map: TokenMap,
    frames: dict[int, np.ndarray],
    paint: Painter,
    columns: int,
    by_kept: bool = False,
) -> list[Axes]:
    """Draw frames by unit, `columns` per line, with their times, and kept tokens or the best score."""
    axes = []
    for place, (unit, frame) in enumerate(frames.items()):
        axis = figure.add_subplot(-(-len(frames) // columns), columns, place + 1)
        axis.imshow(paint(frame, unit))
        time = f"unit {unit}" if token_map.seconds is None else clock_time(token_map.seconds[unit])
        fact = f"{token_map.kept_by_unit[unit]} kept" if by_kept else f"score {token_map.best[unit]:.2g}"
        axis.set_title(f"{time}, {fact}" if by_kept or token_map.scored else time, fontsize=7)
        axis.axis("off")
        axes.append(axis)
    return axes


def draw_timeline(axis: Axes, token_map: TokenMap) -> None:
    """Draw kept tokens per unit as bars, and the best score as a line."""
    from matplotlib.ticker import MaxNLocator

    axis.stairs(token_map.kept_by_unit, token_map.edges, fill=True, color=BARS)
    axis.set(ylabel="tokens kept", xlim=(token_map.edges[0], token_map.edges[-1]), ylim=(0, None))
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    time_axis(axis, token_map.seconds)
    if not token_map.scored:
        return
    twin = axis.twinx()
    twin.stairs(token_map.best, token_map.edges, color=WARM, baseline=None, linewidth=0.8)
    twin.set_ylabel("best score", color=WARM)
    twin.set_ylim(0, None)


def _frames_and_timeline(
    token_map: TokenMap,
    title: str,
    shown: list[int],
    columns: int,
    paint: Painter,
    with_scale: bool = False,
) -> Picture:
    frames = dict(zip(shown, token_map.frames(shown)))
    lines, tall = -(-len(shown) // columns), line_height(frames[shown[0]], FRAME_WIDTH)
    with drawing(FRAME_WIDTH * columns, lines * tall + 2.2, title) as figure:
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[lines * tall, 1.8])[:, 0]
        axes = draw_frames(above, token_map, frames, paint, min(columns, max(3, len(shown))), by_kept=not with_scale)
        if with_scale:
            _draw_scale(above, axes, token_map)
        draw_timeline(below.add_subplot(), token_map)
    return figure


def _draw_scale(figure: SubFigure, axes: list[Axes], token_map: TokenMap) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import PowerNorm

    norm = PowerNorm(0.5, float(token_map.scores.min()), float(token_map.scores.max()))
    figure.colorbar(ScalarMappable(norm, HEAT), ax=axes, label="score (square-root scale)", aspect=30)
