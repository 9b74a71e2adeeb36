"""Time PyTorch's attention kernels on the shapes of scoring and answering, first and second call.

    python -m bench.kernels                     (a GPU, a minute)
    python -m bench.kernels --tiny --device cpu (the same program on small shapes, to try it)

On Hopper and Blackwell, cuDNN's kernel plans anew for each new length, and every question has another length.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch.nn.functional import scaled_dot_product_attention

from bench.measure import require_gpu, write_result
from flexselect.attention.kernels import KERNELS, attention_kernels

# (name, batch, query heads, key heads, query rows, keys, width of a head, masked); of Qwen2.5-VL-7B at 1,024 frames
SHAPES = [
    ("score", 2, 28, 4, 14159, 14159, 128, False),
    ("score, kept states", 2, 4, 4, 448, 14159, 128, True),
    ("prefill, kept tokens", 1, 28, 4, 7119, 7119, 128, False),
    ("prefill, dense", 1, 28, 4, 112719, 112719, 128, False),
    ("decode", 1, 28, 4, 1, 7200, 128, False),
    ("tower, windows", 320, 16, 16, 64, 64, 80, False),
]


def seconds(shape: tuple, device: str) -> float:
    """Time one call, from the launch to its end."""
    _, batch, heads, kv_heads, rows, keys, width, masked = shape
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    make = lambda count, length: torch.randn(batch, count, length, width, device=device, dtype=dtype)  # noqa: E731
    q, k, v = make(heads, rows), make(kv_heads, keys), make(kv_heads, keys)
    mask = torch.ones(rows, keys, dtype=torch.bool, device=device).tril(keys - rows) if masked else None
    _wait(device)
    began = time.perf_counter()
    causal = mask is None and rows > 1 and rows == keys
    scaled_dot_product_attention(q, k, v, mask, is_causal=causal, enable_gqa=heads != kv_heads)
    _wait(device)
    return time.perf_counter() - began


def blind_rows(device: str) -> int:
    """Count NaN in the output of rows that attend to nothing; this project's mask has no such rows."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    q, k, v = (torch.randn(2, 28, 256, 128, device=device, dtype=dtype) for _ in range(3))
    mask = torch.ones(256, 256, dtype=torch.bool, device=device).tril()
    mask[:32] = False
    return int(scaled_dot_product_attention(q, k, v, mask).isnan().sum())


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def main() -> None:
    """Print one row per shape and kernel order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small shapes to try the program; no results are written")
    options = parser.parse_args()
    require_gpu(parser, options.device)
    rows = []
    for first in KERNELS:  # libraries and the card's clock start up
        with attention_kernels(first):
            for size in (64, 96):
                seconds(("warm-up", 1, 4, 4, size, size, 64, False), options.device)
    print(f"{'shape':22}{'tried first':>12}{'call 1':>12}{'call 2':>12}{'longer by 8':>14}   seconds")
    for name, *numbers in SHAPES:
        batch, heads, kv_heads, count, keys, width, masked = numbers
        if options.tiny:
            batch, count, keys = min(batch, 2), min(count, 32), min(keys, 32)
        for first in KERNELS:
            with attention_kernels(first):
                shape = (name, batch, heads, kv_heads, count, keys, width, masked)
                longer = (name, batch, heads, kv_heads, count + 8 if count > 1 else 1, keys + 8, width, masked)
                times = [seconds(size, options.device) for size in (shape, shape, longer)]
            rows.append({"shape": name, "first": first, "seconds": times})
            print(f"{name:22}{first:>12}" + "".join(f"{value:12.5f}" for value in times))
    for first in KERNELS:
        with attention_kernels(first):
            count = blind_rows(options.device)
        rows.append({"shape": "rows that attend to nothing", "first": first, "nan": count})
        print(f"rows that attend to nothing, {first} first: {count} NaN")
    if not options.tiny:
        card = torch.cuda.get_device_name() if options.device != "cpu" else "CPU"
        write_result("kernels", {"card": card}, rows)


if __name__ == "__main__":
    main()
