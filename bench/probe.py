"""The probe beside a whole score tensor: extra memory and time at Qwen2.5-VL-7B's head geometry.

    python -m bench.probe

Each measurement runs in a process of its own, so that peak memory is its own.
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flexselect.attention import visual_attention

HEADS, KV_HEADS, WIDTH, ROWS = 28, 4, 128, 64
KEYS = (4096, 16384, 65536)
RESULT = Path("bench/results/probe.json")


def whole_tensor(q: Tensor, k: Tensor, visual: slice, scaling: float) -> Tensor:
    """The straightforward way: a score for every head, row and key at once."""
    k = k.repeat_interleave(HEADS // KV_HEADS, dim=1)
    logits = (q.float() @ k.float().transpose(-1, -2)) * scaling  # [1, H, Q, N]
    keys, rows = k.shape[2], q.shape[2]
    logits += torch.full((rows, keys), float("-inf")).triu(keys - rows + 1)
    return logits.softmax(-1)[..., visual].amax((1, 2))


def memory(name: str) -> float:
    """A line of /proc/self/status, in megabytes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[name].split()[0]) / 1024


def measure(method: Callable, keys: int, pipe: multiprocessing.connection.Connection) -> None:
    """Send back (extra peak megabytes, median seconds of three, the scores)."""
    torch.manual_seed(0)
    q = torch.randn(1, HEADS, ROWS, WIDTH, dtype=torch.bfloat16)
    k = torch.randn(1, KV_HEADS, keys, WIDTH, dtype=torch.bfloat16)
    method(q, k[:, :, : 2 * ROWS], slice(0, ROWS), WIDTH**-0.5)  # warm-up: libraries are loaded here
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far: a child starts with its parent's
    before = memory("VmRSS")
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        scores = method(q, k, slice(16, keys - ROWS), WIDTH**-0.5)
        seconds.append(time.perf_counter() - began)
    pipe.send((memory("VmHWM") - before, sorted(seconds)[1], scores.numpy()))


def alone(method: Callable, keys: int) -> tuple[float, float, np.ndarray]:
    """Measure in a fresh process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=measure, args=(method, keys, theirs))
    process.start()
    result = ours.recv()
    process.join()
    return result


def main() -> None:
    """Print the table and write it as JSON."""
    rows = []
    print(f"{'keys':>7} {'whole MB':>9} {'probe MB':>9} {'whole s':>8} {'probe s':>8} {'max |difference|':>17}")
    for keys in KEYS:
        whole_mb, whole_s, expected = alone(whole_tensor, keys)
        probe_mb, probe_s, scores = alone(visual_attention, keys)
        difference = float(abs(scores - expected).max())
        print(f"{keys:7} {whole_mb:9.0f} {probe_mb:9.0f} {whole_s:8.2f} {probe_s:8.2f} {difference:17.1e}")
        rows.append({"keys": keys, "whole_mb": whole_mb, "probe_mb": probe_mb, "whole_s": whole_s, "probe_s": probe_s})
    machine = {"machine": platform.machine(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({**machine, "heads": HEADS, "query_rows": ROWS, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
