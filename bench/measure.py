"""Measure time and memory of a function in a separate process, so that only the function counts for the peak memory."""

from __future__ import annotations

import argparse
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
    """Return a value of /proc/self/status in megabytes.

    Args:
        name: name of the value: "VmRSS" is the current memory, "VmHWM" the peak.
    """
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[name].split()[0]) / 1024


@contextmanager
def extra_megabytes(measurements: list[float]) -> Iterator[None]:
    """Measure how far the memory of this process rises in a block; append the megabytes to a list."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = memory("VmRSS")
    yield
    measurements.append(memory("VmHWM") - before)


def _measure(method: Callable, inputs: Callable, size: int, small: int, times: int, pipe: Any) -> None:
    method(*inputs(small))  # warm-up, so that libraries are already loaded
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

    Args:
        method: the function to measure.
        inputs: makes the function's arguments from a size.
        size: the size to measure.
        small: the size of the warm-up.
        times: number of calls.
        context: multiprocessing context that starts the process; None spawns it.

    Returns:
        Extra peak megabytes, median seconds, and the function's result.
    """
    context = context or multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe()
    process = context.Process(target=_measure, args=(method, inputs, size, small, times, sender))
    process.start()
    sender.close()  # otherwise `recv` would wait forever if the process dies
    try:
        return receiver.recv()
    finally:
        process.join()


def require_gpu(parser: argparse.ArgumentParser, device: str) -> None:
    """End the program with a message if it needs a GPU and there is none."""
    if device != "cpu" and not torch.cuda.is_available():
        parser.error("there is no GPU here; try the program with --tiny --device cpu")


def write_result(name: str, about: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write a table as JSON to `RESULTS`, with the machine that it was measured on.

    Args:
        name: file name without ending.
        about: facts about the measurement, such as sizes.
        rows: rows of the table.
    """
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "",
    )
    machine = {"machine": platform.machine(), "cpu": cpu, "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    machine |= {name: version(name) for name in ("torch", "transformers", "av", "numpy")}
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({**machine, **about, "rows": rows}, indent=2) + "\n")
