"""Extra memory and time of the probe, compared with a whole score tensor, at Qwen2.5-VL-7B's head sizes.

python -m bench.probe
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.measure import alone, write_result
from flexselect.attention.probe import visual_attention

HEADS, KV_HEADS, WIDTH, ROWS = 28, 4, 128, 64
KEYS = (4096, 16384, 65536)


def whole_tensor(q: Tensor, k: Tensor, visual: slice, scaling: float) -> Tensor:
    """Score the keys in the straightforward way, with one tensor of all heads, rows and keys."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    logits = (q.float() @ k.float().transpose(-1, -2)) * scaling  # [1, H, Q, N]
    keys, rows = k.shape[2], q.shape[2]
    logits += torch.full((rows, keys), float("-inf")).triu(keys - rows + 1)
    return logits.softmax(-1)[..., visual].amax((1, 2))


def inputs(keys: int) -> tuple[Tensor, Tensor, slice, float]:
    """Make random queries and keys; return the arguments of `visual_attention`."""
    torch.manual_seed(0)
    q = torch.randn(1, HEADS, ROWS, WIDTH, dtype=torch.bfloat16)
    k = torch.randn(1, KV_HEADS, keys, WIDTH, dtype=torch.bfloat16)
    return q, k, slice(16, keys - ROWS), WIDTH**-0.5


def measured(method: Callable, keys: int, times: int = 3, context: Any = None) -> tuple[float, float, np.ndarray]:
    """Measure a way to score; return extra peak megabytes, median seconds and the scores."""
    return alone(method, inputs, keys, 2 * ROWS + 32, times, context)


def main() -> None:
    """Print the table and write it as JSON."""
    rows = []
    print(f"{'keys':>7} {'whole MB':>9} {'probe MB':>9} {'whole s':>8} {'probe s':>8} {'max |difference|':>17}")
    for keys in KEYS:
        whole_mb, whole_s, expected = measured(whole_tensor, keys)
        probe_mb, probe_s, scores = measured(visual_attention, keys)
        difference = float(abs(scores - expected).max())
        print(f"{keys:7} {whole_mb:9.0f} {probe_mb:9.0f} {whole_s:8.2f} {probe_s:8.2f} {difference:17.1e}")
        rows.append({"keys": keys, "whole_mb": whole_mb, "probe_mb": probe_mb, "whole_s": whole_s, "probe_s": probe_s})
    write_result("probe", {"heads": HEADS, "query_rows": ROWS}, rows)


if __name__ == "__main__":
    main()
