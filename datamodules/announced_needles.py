"""Rendered videos with announced needles: a dot says long before where a shape will appear, but not which one.

A look at every eighth second in which a cell has less than ten pixels sees the dots and hardly ever a shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
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

Kind = Literal["colour", "shape", "first", "count"]  # what a question asks for
FIRST, COUNT = "Which came first, {} or {}?", "How many shapes are {}?"
NUMBERS = ("one", "two", "three")
ANNOUNCED = 18  # frames in which a dot is visible: at least eight whole temporal patches


@dataclass(frozen=True)
class Difficulty:
    """How hard the needles of a video are to find and to read."""

    moment: int = MOMENT  # frames in which a shape is visible
    size: float = 1.0  # of a shape, as a share of the usual size
    alike: bool = False  # whether false announcements have the colours of shapes
    repeated: bool = False  # whether shapes have the same colour: one, two or three of them


EASY = Difficulty()
HARD = Difficulty(moment=1, size=0.7, alike=True)  # a circle covers a quarter of its cell


@dataclass(frozen=True)
class Announcement:
    """One dot, visible in frames [begin, end) of one cell; a needle, if there is one, replaces it for a moment."""

    colour: str
    row: int
    column: int
    begin: int
    end: int
    needle: Needle | None  # None: a false announcement
    how: Difficulty = EASY

    def marks(self) -> list[Mark]:
        """Return what is drawn: the dot, and the shape that replaces it."""
        if self.needle is None:
            return [Mark(DOT, self.colour, ((self.begin, self.end),), self.row, self.column)]
        start, stop = self.needle.start, min(self.needle.start + self.how.moment, self.end)
        spans = (self.begin, start), (stop, self.end)
        return [
            Mark(DOT, self.colour, spans, self.row, self.column),
            Mark(self.needle.shape, self.colour, ((start, stop),), self.row, self.column, self.how.size),
        ]


def draw_colours(rng: np.random.Generator, needles: int, how: Difficulty) -> tuple[list[str], list[str]]:
    """Draw the colours of needles, and those that false announcements may have."""
    names = rng.permutation(list(COLOURS)).tolist()
    counts = (rng.permutation(3) + 1).tolist() if how.repeated else [1]  # shapes of the first colour, the second, ...
    of_needles = [name for name, count in zip(names, cycle(counts)) for _ in range(count)][:needles]
    return of_needles, sorted({*of_needles}) if how.alike else [name for name in names if name not in of_needles]


def draw_announcements(
    rng: np.random.Generator,
    needles: int,
    false: int,
    num_frames: int,
    length: int = ANNOUNCED,
    cells: int = 3,
    how: Difficulty = EASY,
) -> list[Announcement]:
    """Draw announcements of needles one after another, then false ones in other cells and colours.

    Args:
        rng: where they are drawn from.
        needles: needles, at most 6; they differ in shape and cell, and in colour if `how` says nothing else.
        false: dots that no shape follows.
        num_frames: length of the video.
        length: frames from the begin of an announcement to its end.
        cells: cells in each direction.
        how: how hard the needles are to find and to read.

    Raises:
        ValueError: if the video is too short for them.
    """
    (names, others), places = draw_colours(rng, needles, how), rng.permutation(cells * cells)
    shapes, free = rng.permutation(SHAPES), len(places) - needles
    shown = []
    for i, begin in enumerate(rng.permutation(_begins(rng, needles, num_frames, length))):
        start = int(begin + rng.integers(0, length - how.moment + 1))
        where = divmod(int(places[i]), cells)
        needle = Needle(str(shapes[i]), names[i], start, *where)
        shown.append(Announcement(needle.colour, *where, int(begin), int(begin) + length, needle, how))
    for cell, place in enumerate(places[needles:]):
        for begin in _begins(rng, len(range(cell, false, free)), num_frames, length):
            colour = str(rng.choice(others))
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


def ask_count(shown: Sequence[Announcement], index: int) -> tuple[Question, list[int]]:
    """Ask how many shapes have the colour of announcement `index`; return the question and their indices."""
    colour = shown[index].colour
    same = [i for i, each in enumerate(shown) if each.colour == colour]
    return Question(COUNT.format(colour), NUMBERS[len(same) - 1], None, same[0]), same


def draw_clip(
    rng: np.random.Generator, needles: int, false: int, num_frames: int, how: Difficulty = EASY
) -> list[Announcement]:
    """Draw announcements for a training clip, whose borders cut them but leave the moments of the needles inside."""
    (names, others), places = draw_colours(rng, needles, how), rng.permutation(9)
    shapes, shown = rng.permutation(SHAPES), []
    for i in range(needles + false):
        start = int(rng.integers(0, max(1, num_frames - how.moment + 1)))
        begin = start - int(rng.integers(0, ANNOUNCED - how.moment + 1))
        where = divmod(int(places[i]), 3)
        needle = Needle(str(shapes[i]), names[i], start, *where) if i < needles else None
        colour = needle.colour if needle else str(rng.choice(others))
        shown.append(Announcement(colour, *where, begin, begin + ANNOUNCED, needle, how))
    return shown


def draw_coarse_clip(
    rng: np.random.Generator, count: int, units: int, seen: float, repeated: bool = False
) -> list[Announcement]:
    """Draw what a look at every eighth unit sees of announcements, for training: one unit of each, dot or shape.

    Args:
        rng: where they are drawn from.
        count: announcements, at most 8.
        units: units of the clip, of one frame each.
        seen: share of shapes.
        repeated: whether announcements may have the same colour.
    """
    (names, _), places = draw_colours(rng, count, Difficulty(repeated=repeated)), rng.permutation(9)
    shapes, shown = rng.permutation(list(SHAPES)), []
    for i, unit in enumerate(rng.permutation(units)[:count].tolist()):
        where = divmod(int(places[i]), 3)
        needle = Needle(str(shapes[i % len(SHAPES)]), names[i], unit, *where) if rng.random() < seen else None
        shown.append(Announcement(names[i], *where, unit, unit + 1, needle))
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
    how: Difficulty = EASY,
    fps: int = 2,
    length: int = ANNOUNCED,
) -> Path:
    """Write mp4 files and `annotations.jsonl`; equal arguments give equal videos and questions.

    Args:
        folder: output folder; created if missing.
        videos: number of videos.
        patches: length of a video in temporal patches of 2 frames: seconds at 2 frames per second.
        needles: shapes per video, at most 6, and at least 2 for questions of kind "first".
        questions: questions per video, of all needles and kinds in turn.
        seed: seed of all videos.
        false: announcements per video that no shape follows, in colours that no shape has, if `how` says nothing else.
        key_distance: frames from one key frame to the next; None: the encoder decides.
        kinds: what is asked for: "colour" of a shape, "shape" of a colour, which of two colours came "first", or the
            "count" of shapes of a colour.
        how: how hard the needles are to find and to read; shapes of the same colour belong to the kind "count".
        fps: frames per second of the file.
        length: frames from the begin of an announcement to its end; as many as a shape has: nothing is announced.

    Returns:
        The annotation file. In each row, `needle` says where the answer is visible; `moments` and `announced` say when
        the shapes and the dots of the needles in question are.

    Raises:
        ValueError: if a question has several answers, or the video is too short.
    """
    _check_kinds(kinds, how)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for v in range(videos):
        rng = np.random.default_rng([seed, v])
        shown = draw_announcements(rng, needles, false, 2 * patches, length, how=how)
        marks = [mark for announcement in shown for mark in announcement.marks()]
        write_video(folder / f"announced_{v:03d}.mp4", render_marks(rng, marks, 2 * patches), fps, key_distance)
        for q in range(questions):
            row = _row(rng, shown[:needles], q % needles, kinds[q // needles % len(kinds)], fps)
            rows.append({"id": f"{v:03d}-{q}", "video": f"announced_{v:03d}.mp4", **row})
    annotations = folder / "annotations.jsonl"
    annotations.write_text("".join(map(json_line, rows)), encoding="utf-8")
    return annotations


def _check_kinds(kinds: Sequence[Kind], how: Difficulty) -> None:
    """Refuse questions with several answers."""
    if how.repeated and {"shape", "first"} & {*kinds}:
        raise ValueError("if shapes have the same colour, a colour has no one shape or time: ask for colour and count")
    if how.alike and "first" in kinds:
        raise ValueError(
            "if false announcements have the colours of shapes, none of them comes first: do not ask for it"
        )


def _row(rng: np.random.Generator, shown: list[Announcement], index: int, kind: Kind, fps: int) -> dict[str, Any]:
    """Ask about announcement `index`, and say where and when the answer is visible."""
    needles, others = [announcement.needle for announcement in shown if announcement.needle], [index]
    if kind == "first":
        question, other = ask_first(rng, shown, index)
        others.append(other)
    elif kind == "count":
        question, others = ask_count(shown, index)
    else:
        question = ask(rng, needles, index, by_shape=kind == "colour", choice=False)
    asked = sorted({*others}, key=lambda i: needles[i].start)
    return {
        **asdict(question),
        "kind": kind,
        "needle": asdict(needles[question.needle]),
        "moments": [[needles[i].start / fps, (needles[i].start + shown[i].how.moment) / fps] for i in asked],
        "announced": [[shown[i].begin / fps, shown[i].end / fps] for i in asked],
    }
