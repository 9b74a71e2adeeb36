"""LongVideoBench, validation: 1,337 questions that refer to a moment (arXiv 2407.15754), with or without subtitles."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from datamodules.benchmarks.base import Benchmark
from datamodules.benchmarks.format import LETTER, PLAIN, BenchmarkFormat, Protocol
from flexselect.evaluation.questions import VideoQuestion

MOMENTS = 64  # moments at which the released evaluation looks for subtitles
ENDING = LETTER + "\n"
TEMPLATE = "{subtitles}{question}\n{options}\n{ending}"


class LongVideoBenchFormat(BenchmarkFormat):
    """The format of LongVideoBench.

    Args:
        args: see `BenchmarkFormat`.
        with_subtitles: put the subtitles before the question (longvideobench_val_v_sub and val_i).
        kwargs: see `BenchmarkFormat`.
    """

    repository = "longvideobench/LongVideoBench"
    tables = ("validation-*.parquet", "data/validation-*.parquet", "lvb_val.json", "*.parquet")
    video_folders = ("videos", ".")
    protocols: ClassVar = {
        "paper": Protocol(TEMPLATE, ENDING, 1, "mmmu"),
        "lmms": Protocol(TEMPLATE, ENDING, 32, "first_letter_to_e"),
        "plain": PLAIN,
    }
    defects: ClassVar = {
        "dots": {},  # one dot per moment before a subtitle: see `subtitle_block`
        "one_token": {"max_new_tokens": 32},
    }

    def __init__(self, *args: Any, with_subtitles: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.with_subtitles = with_subtitles
        if with_subtitles and self.protocol_name == "lmms":
            raise ValueError("lmms-eval has no task of videos with subtitles: give --data.protocol paper or plain")

    def question(self, row: dict[str, Any]) -> VideoQuestion:
        """Convert a row: options are columns, "N/A" if there is none; the answer is a number."""
        listed = row.get("candidates") or [row.get(f"option{i}") for i in range(5)]
        options = tuple(str(option) for option in listed if option not in (None, "N/A"))
        groups = (("duration_group", str(row["duration_group"])), ("question_category", str(row["question_category"])))
        video, answer = self.find_video(str(row["video_path"])), "ABCDE"[int(row["correct_choice"])]
        return VideoQuestion(str(row["id"]), video, row["question"], options, answer, groups=groups)

    def subtitles(self, row: dict[str, Any]) -> str:
        """Return the subtitles before the question, or an empty text.

        Raises:
            FileNotFoundError: naming the missing file of subtitles.
        """
        if not self.with_subtitles:
            return ""
        path = self.root / "subtitles" / row["subtitle_path"]
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; unpack {self.repository}'s, or leave with_subtitles out")
        lines = json.loads(path.read_text(encoding="utf-8"))
        start, dots = float(row["starting_timestamp_for_subtitles"]), "dots" not in self.repair
        return subtitle_block(lines, float(row["duration"]), start, dots) + "\n"


class LongVideoBench(Benchmark):
    """LongVideoBench. `root` has the table, `videos/`, and `subtitles/` for the variant with subtitles.

    Args:
        args: see `Benchmark`.
        with_subtitles: put the subtitles before the question (longvideobench_val_v_sub and val_i).
        kwargs: see `Benchmark`.
    """

    form = LongVideoBenchFormat

    def __init__(self, *args: Any, with_subtitles: bool = False, **kwargs: Any) -> None:
        self.variant = {"with_subtitles": with_subtitles}
        super().__init__(*args, **kwargs)


def subtitle_block(lines: list[dict[str, Any]], duration: float, start: float, dots: bool = True) -> str:
    """Join subtitles as the released evaluation does: those on screen at one of 64 moments, with dots for the moments.

    Args:
        lines: subtitles with `timestamp` [from, to] and `text`, or `start`, `end` (h:m:s) and `line`.
        duration: length of the clip in seconds.
        start: start of the clip in the subtitles' time, in seconds.
        dots: whether to add, as released, one dot per moment that has passed before the middle of a line.
    """
    if duration > MOMENTS:
        moments = [duration * i / MOMENTS for i in range(MOMENTS)]
    else:
        moments = [float(i) for i in range(int(duration))]
    parts: list[str] = []
    passed = 0
    for line in lines:
        first, last, text = _interval_and_text(line, duration, start)
        middle = (first + last) / 2
        while dots and passed < len(moments) and moments[passed] <= middle:
            parts.append("")
            passed += 1
        if last - first < 1:
            first, last = middle - 0.5, middle + 0.5
        if any(first < moment < last for moment in moments):
            parts.append(text)
    return ".".join(parts)


def _interval_and_text(line: dict[str, Any], duration: float, start: float) -> tuple[float, float, str]:
    """Return start and end of a subtitle in seconds of the clip, and its text."""
    if "timestamp" in line:
        first, last = line["timestamp"]
        return first - start, (last if isinstance(last, float) else duration) - start, line["text"]
    first, last = (_seconds(line[end]) for end in ("start", "end"))
    return first - start, last - start, line["line"]


def _seconds(clock: str) -> float:
    """Convert h:m:s to seconds."""
    hours, minutes, seconds = clock.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
