"""The style of all pictures: perceptually uniform colours that also work in greyscale."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from flexselect.evaluation.results import EMPTY
from flexselect.storage.run_settings import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from flexselect.visualize.picture import Picture

HEAT = "inferno"  # colours of scores
DARK, WARM, PALE = "0.15", "#d55e00", "0.6"  # colours of the first and second series, and of the background
BARS = "0.4"
DPI = 130  # pixels per inch
STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800)  # seconds between ticks
TICKS = 9  # the most on an axis
STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.0,
}


def check_matplotlib() -> None:
    """Refuse to start if matplotlib is missing.

    Raises:
        UsageError: if matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise UsageError("pictures need matplotlib: pip install 'flexselect[viz]'")


@contextmanager
def drawing(width: float, height: float, title: str = "") -> Iterator[Picture]:
    """Open a figure with a size in inches, in the style of all pictures. Thread-safe: no window, no global state.

    Raises:
        UsageError: if matplotlib is not installed.
    """
    check_matplotlib()
    from matplotlib import rc_context

    from flexselect.visualize.picture import Picture

    with rc_context({**STYLE, "font.family": fonts()}):
        figure = Picture(figsize=(width, height), layout="constrained", dpi=DPI)
        if title:
            figure.suptitle(shorten(title, int(12 * width)), fontsize=10)
        yield figure
        figure.draw_without_rendering()  # now, while the style is set: ticks are made when they are drawn


@cache
def fonts() -> list[str]:
    """Return the default font, and installed fonts for Chinese, Japanese and Korean."""
    from matplotlib.font_manager import get_font_names

    wide = re.compile(r"CJK|WenQuanYi|YaHei|SimHei|PingFang|Hiragino Sans|Malgun|Arial Unicode", re.IGNORECASE)
    return ["DejaVu Sans", *sorted(filter(wide.search, get_font_names()))[:3]]


def question_title(question: str, answer: str) -> str:
    """Make a title of the beginning of a question and the whole answer."""
    short = " ".join(answer.split())[:40]
    line = " ".join(question.split())
    room = 100 - len(short)
    return f"{line if len(line) <= room else line[: room - 1] + '…'}  →  {short or EMPTY}"


def shorten(text: str, length: int) -> str:
    """Shorten a text to one line of at most `length` characters; escape dollar signs, which would begin a formula."""
    line = " ".join(text.split())
    line = line if len(line) <= length else line[: length - 1] + "…"
    return line.replace("$", r"\$")


def clock_time(seconds: float) -> str:
    """Format seconds as players do, rounded down: 0:07, 12:34, 1:02:03."""
    minutes, second = divmod(int(seconds + 5e-4), 60)  # 29.9999999 comes from rounding and means 30
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def length_text(seconds: float) -> str:
    """Format the length of a video to the nearest second: 29.97 seconds are 0:30."""
    return clock_time(round(seconds))


def round_times(first: float, last: float) -> list[float]:
    """Return seconds between two times that are round on a clock, at most `TICKS`."""
    step = next((step for step in STEPS if (last - first) / step <= TICKS - 1), STEPS[-1])
    return [step * n for n in range(math.ceil(first / step), int(last // step) + 1)]


def time_axis(axis: Axes, seconds: np.ndarray | None) -> None:
    """Label the time axis of a video: clock times, or unit numbers if times are unknown."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    if seconds is None:
        axis.set_xlabel("unit (time step)")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        axis.set_xlabel("time in the video")
        axis.xaxis.set_major_locator(FixedLocator(round_times(*axis.get_xlim())))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda second, _: clock_time(max(second, 0))))
