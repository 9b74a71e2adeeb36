"""Measure the seconds of each stage of an answer."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch


class Clock:
    """A stopwatch that adds up seconds by stage. It waits for the GPUs, so that each stage counts only its work.

    Args:
        gpus: the GPUs to wait for: all that a model is spread over.
        timings: seconds spent so far, by stage.
    """

    def __init__(self, gpus: Iterable[torch.device], timings: dict[str, float] | None = None) -> None:
        self.gpus = list(gpus)
        self.timings = dict(timings or {})
        self._stage: str | None = None
        self._since = 0.0

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time a block of code as one stage."""
        self.start(stage)
        try:
            yield
        finally:
            self.stop()

    def start(self, stage: str) -> None:
        """End the running stage, if any, and start another; a stage may be started several times."""
        if stage != self._stage:
            self.stop()
            self._stage, self._since = stage, time.perf_counter()

    def stop(self) -> None:
        """End the running stage."""
        for gpu in self.gpus:
            torch.cuda.synchronize(gpu)
        if self._stage is not None:
            spent = time.perf_counter() - self._since
            self.timings[self._stage] = self.timings.get(self._stage, 0.0) + spent
        self._stage = None
