"""Rendered videos with announced needles: a dot says long before where a shape will appear, but not which one.

A look at every eighth second in which a cell has less than ten pixels sees the dots and hardly ever a shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.needles import COLOURS, DOT, MOMENT, SHAPES, Mark, Needle, Question, ask, render_marks
from flexselect.storage.json_lines import json_line
from flexselect.storage.video_writer import write_video

Kind = Literal["colour", "shape", "first"]  # what a question asks for
FIRST = "Which came first, {} or {}?"
ANNOUNCED = 18  # frames in which a dot is visible: at least eight whole temporal patches


@dataclass(frozen=True)
class Announcement:
    """One dot, visible in frames [begin, end) of one cell; a needle, if there is one, replaces it for a moment."""

    colour: str
    row: int
    column: int
    begin: int
    needle: Needle | None  # None: a false announcement

    @property
    def end(self) -> int:
        """The frame in which the dot is gone."""
        return self.begin + ANNOUNCED

    def marks(self) -> list[Mark]:
        """Return what is drawn: the dot, and the shape that replaces it."""
        if self.needle is None:
            return [Mark(DOT, self.colour, ((self.begin, self.end),), self.row, self.column)]
        start, stop = self.needle.start, self.needle.start + MOMENT
        spans = (self.begin, start), (stop, self.end)
        return [
            Mark(DOT, self.colour, spans, self.row, self.column),
            Mark(self.needle.shape, self.colour, ((start, stop),), self.row, self.column),
        ]


def draw_announcements(
    rng: np.random.Generator, needles: int, false: int, num_frames: int, cells: int = 3
) -> list[Announcement]:
    """Draw announcements of needles one after another, then false ones in other cells and colours.

    Args:
        rng: where they are drawn from.
        needles: needles, at most 6; they differ in shape, colour and cell.
        false: dots that no shape follows.
        num_frames: length of the video.
        cells: cells in each direction.

    Raises:
        ValueError: if the video is too short for them.
    """
    names, places = rng.permutation(list(COLOURS)), rng.permutation(cells * cells)
    shapes, free = rng.permutation(SHAPES), len(places) - needles
    shown = []
    for i, begin in enumerate(rng.permutation(_begins(rng, needles, num_frames))):
        start = int(begin + rng.integers(0, ANNOUNCED - MOMENT + 1))
        where = divmod(int(places[i]), cells)
        needle = Needle(str(shapes[i]), str(names[i]), start, *where)
        shown.append(Announcement(needle.colour, *where, int(begin), needle))
    for cell, place in enumerate(places[needles:]):
        for begin in _begins(rng, len(range(cell, false, free)), num_frames):
            colour = str(names[rng.integers(needles, len(names))])
            shown.append(Announcement(colour, *divmod(int(place), cells), int(begin), None))
    return shown


def _begins(rng: np.random.Generator, count: int, num_frames: int) -> np.ndarray:
    """Draw when announcements begin that do not overlap, in ascending order: int64 [count]."""
    slack = num_frames - count * ANNOUNCED
    if slack < 0:
        raise ValueError(
            f"{count} announcements one after another take {count * ANNOUNCED} frames, "
            f"but the video has {num_frames}: give more patches or fewer needles"
        )
    return np.sort(rng.integers(0, slack + 1, count)) + np.arange(count) * ANNOUNCED


def ask_announced(rng: np.random.Generator, needles: Sequence[Needle], index: int, kind: Kind) -> tuple[Question, int]:
    """Ask about needle `index`; return the question and the other needle that it names, or `index` again."""
    if kind != "first":
        return ask(rng, list(needles), index, by_shape=kind == "colour", choice=False), index
    other = (index + int(rng.integers(1, len(needles)))) % len(needles)
    earlier = min(index, other, key=lambda i: needles[i].start)
    question = FIRST.format(needles[index].colour, needles[other].colour)
    return Question(question, needles[earlier].colour, None, earlier), other


def write_announced_videos(
    folder: str | Path,
    videos: int = 4,
    patches: int = 256,
    needles: int = 4,
    questions: int = 8,
    seed: int = 0,
    false: int = 4,
    kinds: Sequence[Kind] = ("colour", "shape"),
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
        write_video(folder / f"announced_{v:03d}.mp4", render_marks(rng, marks, 2 * patches), fps=2)
        for q in range(questions):
            row = _row(rng, shown[:needles], q % needles, kinds[q // needles % len(kinds)])
            rows.append({"id": f"{v:03d}-{q}", "video": f"announced_{v:03d}.mp4", **row})
    annotations = folder / "annotations.jsonl"
    annotations.write_text("".join(map(json_line, rows)), encoding="utf-8")
    return annotations


def _row(rng: np.random.Generator, shown: list[Announcement], index: int, kind: Kind) -> dict[str, Any]:
    """Ask about announcement `index`, and say where and when the answer is visible."""
    needles = [announcement.needle for announcement in shown if announcement.needle]
    question, other = ask_announced(rng, needles, index, kind)
    asked = sorted({index, other}, key=lambda i: needles[i].start)
    return {
        **asdict(question),
        "kind": kind,
        "needle": asdict(needles[question.needle]),
        "moments": [[needles[i].start / 2, (needles[i].start + MOMENT) / 2] for i in asked],
        "announced": [[shown[i].begin / 2, shown[i].end / 2] for i in asked],
    }
