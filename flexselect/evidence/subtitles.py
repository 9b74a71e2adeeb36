"""Moments as files that video players read: WebVTT cues, and chapters for ffmpeg."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any


def web_vtt(question: str, answer: str, moments: Sequence[dict[str, Any]], starts_at: float = 0.0) -> str:
    """Format moments as WebVTT: a cue for each, in the order of the video, with question, answer and worth.

    Args:
        question: the question.
        answer: the answer.
        moments: `start` and `end` in seconds, `share`, and `alone` if it is known.
        starts_at: the file's own time of its first frame, which players in browsers count from 0.
    """
    title = escape(_one_line(f"{question} {answer}"), quote=False)
    cues = [
        f"{_clock(moment['start'] + starts_at)} --> {_clock(moment['end'] + starts_at)}\n{title}\n{_worth(moment)}\n"
        for moment in sorted(moments, key=lambda moment: moment["start"])
    ]
    return "\n".join(["WEBVTT\n", *cues])


def chapters(question: str, answer: str, moments: Sequence[dict[str, Any]], starts_at: float = 0.0) -> str:
    """Format moments as chapters, as `ffmpeg -i VIDEO -i FILE -map_metadata 1 -c copy OUT` reads them.

    `starts_at` has no effect: ffmpeg lets a video begin at 0.
    """
    lines = [";FFMETADATA1"]
    for moment in sorted(moments, key=lambda moment: moment["start"]):
        title = "".join(f"\\{c}" if c in "=;#\\" else c for c in _one_line(f"{answer}: {question} ({_worth(moment)})"))
        start, end = (round(1000 * moment[name]) for name in ("start", "end"))
        lines += ["[CHAPTER]", "TIMEBASE=1/1000", f"START={start}", f"END={end}", f"title={title}"]
    return "\n".join([*lines, ""])


FORMATS = {"vtt": web_vtt, "chapters": chapters}
ENDINGS = {"vtt": "vtt", "chapters": "txt"}


def _worth(moment: dict[str, Any]) -> str:
    """Say how much a moment is worth: what it gives by itself if it was verified, else its share."""
    name = "alone" if moment.get("alone") is not None else "share"
    return f"{name} {moment[name]:.2f}"


def _clock(seconds: float) -> str:
    """Format seconds as WebVTT does: 01:02:03.500."""
    whole, milliseconds = divmod(round(1000 * seconds), 1000)
    minutes, second = divmod(whole, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{second:02}.{milliseconds:03}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
