"""One style for all pictures: perceptually uniform colours, dark to light, that read the same in greyscale."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flexselect.settings import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEAT = "inferno"  # of scores
DARK, WARM, PALE = "0.15", "#d55e00", "0.6"  # first and second of two, and what is beside the point
BARS = "0.4"
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
    """Before long work whose end is a picture.

    Raises:
        UsageError: without matplotlib.
    """
    if find_spec("matplotlib") is None:
        raise UsageError("pictures need matplotlib: pip install 'flexselect[viz]'")


@contextmanager
def drawing(path: str | Path, width: float, height: float, title: str = "") -> Iterator[Figure]:
    """A figure of so many inches, written to a PNG at the end; safe in threads, no window and no global state.

    Raises:
        UsageError: without matplotlib.
    """
    check_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        if title:
            figure.suptitle(shortened(title, int(14 * width)), fontsize=10)
        yield figure
        figure.savefig(path, dpi=130)


def shortened(text: str, length: int) -> str:
    """Text on one line, cut where it is longer; no dollar sign begins a formula."""
    line = " ".join(text.split())
    line = line if len(line) <= length else line[: length - 1] + "…"
    return line.replace("$", r"\$")


def clock_time(seconds: float) -> str:
    """0:07, 12:34, 1:02:03."""
    minutes, second = divmod(int(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def time_axis(axis: Axes, seconds: np.ndarray | None) -> None:
    """Label the axis along a video: its time, or its units where that is not known."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    if seconds is None:
        axis.set_xlabel("unit (time step)")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        axis.set_xlabel("time in the video")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda second, _: clock_time(max(second, 0))))
