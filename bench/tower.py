"""Time of Qwen2.5-VL's vision tower with windows in a few calls, compared with transformers' one call per window.

python -m bench.tower        (in `make bench`)
"""

from __future__ import annotations

import statistics
import time

import torch
from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from bench.measure import write_result
from flexselect.attention.windows import BATCHED, batch_windows

UNITS, ROWS, COLUMNS, TIMES = 8, 22, 40, 5  # patches of a 308 x 560 frame
DEPTH = {"depth": 4, "fullatt_block_indexes": [3]}  # one layer in four sees the whole frame; really four of 32
WIDTHS = (  # the demo's width, and the real one, where matrix products take most of the time on a CPU
    {"hidden_size": 64, "intermediate_size": 128, "num_heads": 2},
    {"hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16},
)


def measured(sizes: dict[str, int]) -> dict[str, float]:
    """Measure both ways in turn; return median seconds, their ratio, and the largest relative difference."""
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
    plain, batched = (statistics.median(times) for times in seconds.values())
    difference = float((outputs["sdpa"] - outputs[BATCHED]).abs().max() / outputs["sdpa"].abs().max())
    return {"one_call_a_window_s": plain, "batched_s": batched, "ratio": plain / batched, "difference": difference}


def main() -> None:
    """Print one row per width."""
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
