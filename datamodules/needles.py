"""Rendered needle videos: a noisy, moving scene in which a few coloured shapes appear for a moment.

The data of the demo and the tests: real H.264 files of any length, with questions whose answers are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from flexselect.storage.json_lines import json_line
from flexselect.storage.video_writer import write_video

COLOURS = {
    "red": (225, 30, 30),
    "orange": (250, 140, 10),
    "yellow": (245, 235, 50),
    "green": (30, 175, 50),
    "cyan": (50, 220, 230),
    "blue": (45, 65, 235),
    "purple": (150, 40, 190),
    "white": (250, 250, 250),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring", "diamond")
LETTERS = "ABCD"
BY_SHAPE, BY_COLOUR = "What colour is the {}?", "Which shape is {}?"
CELL = 28  # pixels: side of one visual token of Qwen2.5-VL
MOMENT = 3  # frames in which a shape appears: at least one whole temporal patch
CHUNK = 64  # frames rendered at a time
DOT = "dot"  # a small figure that is none of the shapes


@dataclass(frozen=True)
class Mark:
    """One figure, a shape or a dot, drawn into one cell in frames [start, stop) of each span."""

    figure: str
    colour: str
    spans: tuple[tuple[int, int], ...]
    row: int
    column: int
    size: float = 1.0  # as a share of the usual size


@dataclass(frozen=True)
class Needle:
    """One shape, visible in frames [start, start + MOMENT) in one cell of the scene."""

    shape: str
    colour: str
    start: int
    row: int
    column: int


@dataclass(frozen=True)
class Question:
    """A question about a needle; if it has options, the answer is a letter."""

    question: str
    answer: str
    options: list[str] | None
    needle: int  # index of the needle


def draw_needles(rng: np.random.Generator, count: int, num_frames: int, cells: int = 3) -> list[Needle]:
    """Draw up to 6 needles that differ in shape, in colour, and in cell or moment."""
    shapes = rng.permutation(len(SHAPES))[:count]
    colours = rng.permutation(len(COLOURS))[:count]
    places = rng.permutation(cells * cells)[:count]  # needles in different cells do not hide each other
    starts = rng.integers(0, max(1, num_frames - MOMENT + 1), count)
    names = list(COLOURS)
    return [
        Needle(SHAPES[shape], names[colour], int(start), int(place) // cells, int(place) % cells)
        for shape, colour, start, place in zip(shapes, colours, starts, places)
    ]


def render(rng: np.random.Generator, needles: list[Needle], num_frames: int, cells: int = 3) -> Iterator[np.ndarray]:
    """Yield the video in chunks of at most 64 frames, uint8 [t, cells*28, cells*28, 3]."""
    marks = [Mark(n.shape, n.colour, ((n.start, n.start + MOMENT),), n.row, n.column) for n in needles]
    yield from render_marks(rng, marks, num_frames, cells)


def render_marks(rng: np.random.Generator, marks: list[Mark], num_frames: int, cells: int = 3) -> Iterator[np.ndarray]:
    """Yield a video of marks in chunks of at most 64 frames, uint8 [t, cells*28, cells*28, 3]."""
    side = cells * CELL
    texture = _texture(rng, 2 * side)
    turn, phase = rng.uniform(0.02, 0.12, 2), rng.uniform(0, 2 * np.pi, 2)
    masks = [_mask(mark.figure, rng.uniform(-2, 2, 2), mark.size) for mark in marks]
    for first in range(0, num_frames, CHUNK):
        time = np.arange(first, min(first + CHUNK, num_frames))
        corner = ((1 + np.sin(time[:, None] * turn + phase)) * side / 2).astype(int)
        frames = np.stack([texture[y : y + side, x : x + side] for y, x in corner]).astype(np.int16)
        for mark, mask in zip(marks, masks):
            y, x = mark.row * CELL, mark.column * CELL
            for start, stop in mark.spans:
                for i in range(max(start - first, 0), min(stop - first, len(time))):
                    frames[i, y : y + CELL, x : x + CELL][mask] = COLOURS[mark.colour]
        frames += rng.integers(-14, 15, (*frames.shape[:3], 1), dtype=np.int8)
        yield np.clip(frames, 0, 255).astype(np.uint8)


def paint(cell: np.ndarray, shape: str, colour: str, rng: np.random.Generator) -> None:
    """Draw a shape into a cell of a frame, uint8 [28, 28, 3]."""
    cell[_mask(shape, rng.uniform(-2, 2, 2))] = COLOURS[colour]


def _texture(rng: np.random.Generator, side: int) -> np.ndarray:
    """Render a smooth, dull random picture, uint8 [side, side, 3]."""
    coarse = rng.integers(30, 150, (9, 9, 3)).astype(np.float32)
    coarse = 0.6 * coarse.mean(-1, keepdims=True) + 0.4 * coarse  # dull, so that only needles are vivid
    at = np.linspace(0, 8, side, endpoint=False)
    low, part = at.astype(int), (at % 1)[:, None, None]
    rows = coarse[low] * (1 - part) + coarse[low + 1] * part  # [side, 9, 3]
    part = part.transpose(1, 0, 2)
    return (rows[:, low] * (1 - part) + rows[:, low + 1] * part).astype(np.uint8)


def _mask(figure: str, middle: np.ndarray, size: float = 1.0) -> np.ndarray:
    """Return the pixels of a cell that a shape or a dot covers, bool [28, 28]."""
    y, x = np.mgrid[:CELL, :CELL] - (CELL - 1) / 2
    y, x, radius = y - middle[0], x - middle[1], CELL * 0.4 * size
    distance = np.hypot(y, x)
    inside = {
        "circle": distance < radius,
        "square": np.maximum(abs(y), abs(x)) < radius * 0.85,
        "triangle": (abs(x) < (y + radius) * 0.55) & (y < radius * 0.8),
        "cross": (np.minimum(abs(y), abs(x)) < radius * 0.28) & (np.maximum(abs(y), abs(x)) < radius),
        "ring": (distance < radius) & (distance > radius * 0.6),
        "diamond": abs(y) + abs(x) < radius,
        DOT: distance < radius * 0.4,
    }
    return inside[figure]


def ask(rng: np.random.Generator, needles: list[Needle], index: int, by_shape: bool, choice: bool) -> Question:
    """Ask for the colour of needle `index` by its shape, or for its shape by its colour; answers are words or A-D."""
    needle = needles[index]
    question = BY_SHAPE.format(needle.shape) if by_shape else BY_COLOUR.format(needle.colour)
    answer, words = (needle.colour, list(COLOURS)) if by_shape else (needle.shape, list(SHAPES))
    if not choice:
        return Question(question, answer, None, index)
    others = [word for word in words if word != answer]
    options = [answer, *(others[i] for i in rng.permutation(len(others))[:3])]
    options = [options[i] for i in rng.permutation(4)]
    return Question(question, LETTERS[options.index(answer)], options, index)


def ask_about_all(shapes: Iterable[str], colours: Iterable[str]) -> list[tuple[str, bool]]:
    """Ask for every shape and every colour that a needle can have.

    Args:
        shapes: the shapes in a video.
        colours: the colours in it.

    Returns:
        Questions in words, each with whether what it asks for is in the video.
    """
    there, vivid = {*shapes}, {*colours}
    by_shape = [(BY_SHAPE.format(shape), shape in there) for shape in SHAPES]
    return by_shape + [(BY_COLOUR.format(colour), colour in vivid) for colour in COLOURS]


def write_needle_videos(
    folder: str | Path, videos: int = 4, patches: int = 256, needles: int = 4, questions: int = 8, seed: int = 0
) -> Path:
    """Write mp4 files and `annotations.jsonl`; equal arguments give equal videos and questions.

    Args:
        folder: output folder; created if missing.
        videos: number of videos.
        patches: length of a video in temporal patches: 2 frames, one second.
        needles: shapes per video, at most 6.
        questions: questions per video; every fourth is multiple choice.
        seed: seed of all videos.

    Returns:
        The annotation file. In each row, `needle` says where the answer is visible, and `moments` when.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for v in range(videos):
        rng = np.random.default_rng([seed, v])
        shown = draw_needles(rng, needles, 2 * patches)
        write_video(folder / f"needles_{v:03d}.mp4", render(rng, shown, 2 * patches), fps=2)
        for q in range(questions):
            asked = ask(rng, shown, q % needles, by_shape=q // needles % 2 == 0, choice=(q + q // needles) % 4 == 3)
            row = {"id": f"{v:03d}-{q}", "video": f"needles_{v:03d}.mp4", **asdict(asked)}
            needle = shown[asked.needle]
            moments = [[needle.start / 2, (needle.start + MOMENT) / 2]]
            rows.append({**row, "needle": asdict(needle), "moments": moments})
    annotations = folder / "annotations.jsonl"
    annotations.write_text("".join(map(json_line, rows)), encoding="utf-8")
    return annotations
