"""Time and memory of a function, each measurement in a process of its own, so that peak memory is its own."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path("bench/results")


def memory(name: str) -> float:
    """A line of /proc/self/status, in megabytes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[name].split()[0]) / 1024


@contextmanager
def extra_megabytes(found: list[float]) -> Iterator[None]:
    """Add to a list how far the memory of this process rises in a block, above what it was."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = memory("VmRSS")
    yield
    found.append(memory("VmHWM") - before)


def _measure(method: Callable, inputs: Callable, size: int, small: int, times: int, pipe: Any) -> None:
    method(*inputs(small))  # warm-up: libraries are loaded here
    arguments = inputs(size)
    seconds, megabytes = [], list[float]()
    with extra_megabytes(megabytes):
        for _ in range(times):
            began = time.perf_counter()
            result = method(*arguments)
            seconds.append(time.perf_counter() - began)
    pipe.send((megabytes[0], sorted(seconds)[times // 2], result.detach().numpy()))


def alone(
    method: Callable, inputs: Callable, size: int, small: int, times: int = 3, context: Any = None
) -> tuple[float, float, np.ndarray]:
    """Measure `method(*inputs(size))` in a fresh process, after a warm-up at a small size.

    Returns:
        Extra peak megabytes, median seconds, and what it returned.
    """
    context = context or multiprocessing.get_context("spawn")
    actual, expected = context.Pipe()
    process = context.Process(target=_measure, args=(method, inputs, size, small, times, expected))
    process.start()
    expected.close()  # so that its end is seen
    try:
        return actual.recv()
    finally:
        process.join()


def write_result(name: str, about: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write a table with the machine it was measured on."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "",
    )
    machine = {"machine": platform.machine(), "cpu": cpu, "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    machine |= {name: version(name) for name in ("torch", "transformers", "av", "numpy")}
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({**machine, **about, "rows": rows}, indent=2) + "\n")
