"""Rendered videos with announced needles: a dot says long before where a shape will appear, but not which one.

A look at every eighth second in which a cell has less than ten pixels sees the dots and hardly ever a shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.needles import (
    BY_COLOUR,
    BY_SHAPE,
    COLOURS,
    DOT,
    MOMENT,
    SHAPES,
    Mark,
    Needle,
    Question,
    ask,
    render_marks,
)
from flexselect.storage.json_lines import json_line
from flexselect.storage.video_writer import write_video

Kind = Literal["colour", "shape", "first"]  # what a question asks for
FIRST = "Which came first, {} or {}?"
ANNOUNCED = 18  # frames in which a dot is visible: at least eight whole temporal patches
SEEN = 0.5  # share of shapes in coarse training clips, twice as in a first look: large figures are learned first


@dataclass(frozen=True)
class Announcement:
    """One dot, visible in frames [begin, end) of one cell; a needle, if there is one, replaces it for a moment."""

    colour: str
    row: int
    column: int
    begin: int
    end: int
    needle: Needle | None  # None: a false announcement

    def marks(self) -> list[Mark]:
        """Return what is drawn: the dot, and the shape that replaces it."""
        if self.needle is None:
            return [Mark(DOT, self.colour, ((self.begin, self.end),), self.row, self.column)]
        start, stop = self.needle.start, min(self.needle.start + MOMENT, self.end)
        spans = (self.begin, start), (stop, self.end)
        return [
            Mark(DOT, self.colour, spans, self.row, self.column),
            Mark(self.needle.shape, self.colour, ((start, stop),), self.row, self.column),
        ]


def draw_announcements(
    rng: np.random.Generator, needles: int, false: int, num_frames: int, length: int = ANNOUNCED, cells: int = 3
) -> list[Announcement]:
    """Draw announcements of needles one after another, then false ones in other cells and colours.

    Args:
        rng: where they are drawn from.
        needles: needles, at most 6; they differ in shape, colour and cell.
        false: dots that no shape follows.
        num_frames: length of the video.
        length: frames from the begin of an announcement to its end.
        cells: cells in each direction.

    Raises:
        ValueError: if the video is too short for them.
    """
    names, places = rng.permutation(list(COLOURS)), rng.permutation(cells * cells)
    shapes, free = rng.permutation(SHAPES), len(places) - needles
    shown = []
    for i, begin in enumerate(rng.permutation(_begins(rng, needles, num_frames, length))):
        start = int(begin + rng.integers(0, length - MOMENT + 1))
        where = divmod(int(places[i]), cells)
        needle = Needle(str(shapes[i]), str(names[i]), start, *where)
        shown.append(Announcement(needle.colour, *where, int(begin), int(begin) + length, needle))
    for cell, place in enumerate(places[needles:]):
        for begin in _begins(rng, len(range(cell, false, free)), num_frames, length):
            colour = str(names[rng.integers(needles, len(names))])
            shown.append(Announcement(colour, *divmod(int(place), cells), int(begin), int(begin) + length, None))
    return shown


def _begins(rng: np.random.Generator, count: int, num_frames: int, length: int) -> np.ndarray:
    """Draw when announcements begin that do not overlap, in ascending order: int64 [count]."""
    slack = num_frames - count * length
    if slack < 0:
        raise ValueError(
            f"{count} announcements one after another take {count * length} frames, "
            f"but the video has {num_frames}: give more patches or fewer needles"
        )
    return np.sort(rng.integers(0, slack + 1, count)) + np.arange(count) * length


def ask_first(rng: np.random.Generator, shown: Sequence[Announcement], index: int) -> tuple[Question, int]:
    """Ask whether announcement `index` or another one came first; return the question and the other's index."""
    other = (index + int(rng.integers(1, len(shown)))) % len(shown)
    earlier = min(index, other, key=lambda i: shown[i].begin)
    question = FIRST.format(shown[index].colour, shown[other].colour)
    return Question(question, shown[earlier].colour, None, earlier), other


def draw_clip(rng: np.random.Generator, needles: int, false: int, num_frames: int) -> list[Announcement]:
    """Draw announcements for a training clip, whose borders cut them but leave the moments of the needles inside."""
    names, places = rng.permutation(list(COLOURS)), rng.permutation(9)
    shapes, shown = rng.permutation(SHAPES), []
    for i in range(needles + false):
        start = int(rng.integers(0, max(1, num_frames - MOMENT + 1)))
        begin = start - int(rng.integers(0, ANNOUNCED - MOMENT + 1))
        where = divmod(int(places[i]), 3)
        needle = Needle(str(shapes[i]), str(names[i]), start, *where) if i < needles else None
        shown.append(Announcement(str(names[i]), *where, begin, begin + ANNOUNCED, needle))
    return shown


def draw_coarse_clip(rng: np.random.Generator, count: int, units: int) -> list[Announcement]:
    """Draw what a look at every eighth unit sees of announcements, for training: one unit of each, dot or shape."""
    names, places = rng.permutation(list(COLOURS)), rng.permutation(9)
    shapes, shown = rng.permutation(list(SHAPES)), []
    for i, unit in enumerate(rng.permutation(units)[:count]):
        where, begin = divmod(int(places[i]), 3), 2 * int(unit)
        needle = Needle(str(shapes[i % len(SHAPES)]), str(names[i]), begin, *where) if rng.random() < SEEN else None
        shown.append(Announcement(str(names[i]), *where, begin, begin + 2, needle))
    return shown


def ask_coarse(rng: np.random.Generator, shown: Sequence[Announcement]) -> Question:
    """Ask what small frames can answer: whether a colour is a dot or which shape, or the colour of the only one.

    So dots are looked for by their colour, and, whatever the shape in question, as what announces it.
    """
    only = shown[0]
    if len(shown) > 1 or rng.random() < 0.5:
        return Question(BY_COLOUR.format(only.colour), only.needle.shape if only.needle else DOT, None, 0)
    shape = only.needle.shape if only.needle else str(rng.choice(SHAPES))
    return Question(BY_SHAPE.format(shape), only.colour, None, 0)


def write_announced_videos(
    folder: str | Path,
    videos: int = 4,
    patches: int = 256,
    needles: int = 4,
    questions: int = 8,
    seed: int = 0,
    false: int = 4,
    kinds: Sequence[Kind] = ("colour", "shape"),
    key_distance: int | None = None,
) -> Path:
    """Write mp4 files and `annotations.jsonl`; equal arguments give equal videos and questions.

    Args:
        folder: output folder; created if missing.
        videos: number of videos.
        patches: length of a video in temporal patches: 2 frames, one second.
        needles: shapes per video, at most 6, and at least 2 for questions of kind "first".
        questions: questions per video, of all needles and kinds in turn.
        seed: seed of all videos.
        false: announcements per video that no shape follows, in colours that no shape has.
        key_distance: frames from one key frame to the next; None: the encoder decides.
        kinds: what is asked for: "colour" of a shape, "shape" of a colour, or which of two colours came "first".

    Returns:
        The annotation file. In each row, `needle` says where the answer is visible; `moments` and `announced` say when
        the shapes and the dots of the needles in question are.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for v in range(videos):
        rng = np.random.default_rng([seed, v])
        shown = draw_announcements(rng, needles, false, 2 * patches)
        marks = [mark for announcement in shown for mark in announcement.marks()]
        write_video(folder / f"announced_{v:03d}.mp4", render_marks(rng, marks, 2 * patches), 2, key_distance)
        for q in range(questions):
            row = _row(rng, shown[:needles], q % needles, kinds[q // needles % len(kinds)])
            rows.append({"id": f"{v:03d}-{q}", "video": f"announced_{v:03d}.mp4", **row})
    annotations = folder / "annotations.jsonl"
    annotations.write_text("".join(map(json_line, rows)), encoding="utf-8")
    return annotations


def _row(rng: np.random.Generator, shown: list[Announcement], index: int, kind: Kind) -> dict[str, Any]:
    """Ask about announcement `index`, and say where and when the answer is visible."""
    needles, other = [announcement.needle for announcement in shown if announcement.needle], index
    if kind == "first":
        question, other = ask_first(rng, shown, index)
    else:
        question = ask(rng, needles, index, by_shape=kind == "colour", choice=False)
    asked = sorted({index, other}, key=lambda i: needles[i].start)
    return {
        **asdict(question),
        "kind": kind,
        "needle": asdict(needles[question.needle]),
        "moments": [[needles[i].start / 2, (needles[i].start + MOMENT) / 2] for i in asked],
        "announced": [[shown[i].begin / 2, shown[i].end / 2] for i in asked],
    }
