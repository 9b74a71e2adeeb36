"""Say now and then how far long work is, where a progress bar would fill a log file."""

from __future__ import annotations

import time
from collections.abc import Callable

EVERY = 30.0  # seconds between two lines


class Pace:
    """The pace of long work: when to say something, and the time that is left.

    Args:
        total: how many pieces there are; None: not known.
        every: seconds between two lines.
        now: returns the time in seconds.
    """

    def __init__(self, total: int | None, every: float = EVERY, now: Callable[[], float] = time.monotonic) -> None:
        self.total, self.every, self.now = total, every, now
        self.began = self.said = now()
        self.first = 0  # pieces that were done before this run

    def due(self) -> bool:
        """Return whether `every` seconds have passed since the last line, and count from now if so."""
        if self.now() - self.said < self.every:
            return False
        self.said = self.now()
        return True

    def line(self, done: int, unit: str) -> str:
        """Format how much is done and how long the rest takes: "120 of 208 questions, 00:42 left"."""
        if self.total is None:
            return f"{done:,} {unit}"
        pieces = done - self.first
        left = (self.now() - self.began) / pieces * (self.total - done) if pieces > 0 else None
        return f"{done:,} of {self.total:,} {unit}" + ("" if left is None else f", {duration(left)} left")


def duration(seconds: float) -> str:
    """Format seconds as minutes and seconds, 04:05, with hours in front if there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"
