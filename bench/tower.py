"""Qwen2.5-VL's vision tower at its real width: windows in a few calls against transformers' own way, one call a window.

python -m bench.tower        (in `make bench`)
"""

from __future__ import annotations

import statistics
import time

import torch
from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from bench.measure import write_result
from flexselect.families.windows import BATCHED, batch_windows

UNITS, ROWS, COLUMNS, TIMES = 8, 22, 40, 5  # patches of a 308 x 560 frame
DEPTH = {"depth": 4, "fullatt_block_indexes": [3]}  # of 32, one in eight sees the whole frame; here one in four
WIDTHS = (  # the demo's, and the real one: there matrix products take the time on a CPU
    {"hidden_size": 64, "intermediate_size": 128, "num_heads": 2},
    {"hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16},
)


def measured(sizes: dict[str, int]) -> dict[str, float]:
    """Both ways in turn: median seconds, their ratio, and the largest difference."""
    config = Qwen2_5_VLConfig().vision_config
    for name, value in (sizes | DEPTH).items():
        setattr(config, name, value)
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    tower = Qwen2_5_VisionTransformerPretrainedModel(config).eval()
    grid, patches = torch.tensor([[UNITS, ROWS, COLUMNS]]), torch.randn(UNITS * ROWS * COLUMNS, 3 * 2 * 14**2)
    seconds: dict[str, list[float]] = {"sdpa": [], BATCHED: []}
    outputs = {}
    with torch.inference_mode():
        for _ in range(TIMES):
            for way, times in seconds.items():
                tower.config._attn_implementation_internal = "sdpa"
                if way == BATCHED:
                    batch_windows(tower)
                began = time.perf_counter()
                outputs[way] = tower(patches, grid_thw=grid).last_hidden_state
                times.append(time.perf_counter() - began)
    plain, actual = (statistics.median(times) for times in seconds.values())
    difference = float((outputs["sdpa"] - outputs[BATCHED]).abs().max() / outputs["sdpa"].abs().max())
    return {"one_call_a_window_s": plain, "batched_s": actual, "ratio": plain / actual, "difference": difference}


def main() -> None:
    """Print a row a width."""
    print(f"{UNITS} units of {ROWS} x {COLUMNS} patches, {DEPTH['depth']} layers, float32; median of {TIMES}")
    print(f"{'width':>6}{'one call a window':>20}{'batched':>10}{'ratio':>8}{'difference':>12}")
    rows = []
    for sizes in WIDTHS:
        row = measured(sizes)
        rows.append({**sizes, **row})
        print(
            f"{sizes['hidden_size']:6}{row['one_call_a_window_s']:18.3f} s{row['batched_s']:8.3f} s"
            f"{row['ratio']:8.2f}{row['difference']:12.1e}"
        )
    write_result("tower", {"units": UNITS, "patches": [ROWS, COLUMNS], **DEPTH}, rows)


if __name__ == "__main__":
    main()
