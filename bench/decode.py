"""Time and memory to decode and resize sampled frames of a long 1080p video, with each reader.

    python -m bench.decode        (in `make bench`; --minutes 120 --frames 1024 for two hours)

Half a minute is rendered with libx264 and repeated without encoding it again. `get_batch` is decord alone: it returns
all frames at native resolution, which are then resized. `ratio` is the time divided by that of pyav, the default, and
`same` says whether the frames are pyav's, bit for bit. `open` is a whole session of the demo's model at the published
frame size: decoding and encoding. Each measurement runs in a separate process.
"""

from __future__ import annotations

import argparse
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from bench.long_videos import repeat
from bench.measure import alone, write_result
from flexselect import FlexSelect
from flexselect.families.inputs import resize_to_area
from flexselect.structures.frames import ReadOptions, stream_of_file
from flexselect.structures.readers import load_reader

HEIGHT, WIDTH, FPS, PIECE = 1080, 1920, 24, 30  # pixels, pixels, frames per second, seconds rendered
AREA = 128 * 28**2, 308 * 560  # least and most pixels of Qwen2.5-VL, as published


def render(path: Path) -> None:
    """Write half a minute of a moving texture."""
    texture = (
        np.random.default_rng(0).integers(0, 255, (HEIGHT // 4, WIDTH // 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    )
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "26"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for i in range(PIECE * FPS):
            top, left = 2 * i % HEIGHT, 3 * i % WIDTH
            frame = np.ascontiguousarray(texture[top : top + HEIGHT, left : left + WIDTH])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def long_video(minutes: int) -> Path:
    """Return a video of this length; render it if it does not exist."""
    folder = Path("outputs/bench")
    folder.mkdir(parents=True, exist_ok=True)
    piece, path = folder / "piece.mp4", folder / f"{minutes}_minutes.mp4"
    if not path.exists():
        render(piece)
        repeat(piece, path, minutes * 60 // PIECE, PIECE)
    return path


def resize(frames: Tensor) -> Tensor:
    """Resize frames to the size that Qwen2.5-VL takes."""
    return resize_to_area(frames, 28, *AREA)


def with_reader(name: str, path: str, count: int) -> Tensor:
    """Decode and resize a few frames at a time with a reader; return CPU seconds and the frames' checksums."""
    began = time.process_time()
    stream = stream_of_file(path, partial(even, count), resize, ReadOptions(reader=name))
    return timed(began, stream.all_frames())


def with_get_batch(path: str, count: int) -> Tensor:
    """Decode all frames at once with decord alone, then resize them; return CPU seconds and the frames' checksums."""
    import decord  # not everywhere

    began, reader = time.process_time(), decord.VideoReader(path)
    frames = torch.from_numpy(reader.get_batch(even(count, len(reader), 0.0)).asnumpy())
    return timed(began, torch.cat([resize(chunk) for chunk in frames.split(8)]))


def even(count: int, num_frames: int, fps: float) -> list[int]:
    """Choose frames that are evenly spread."""
    return np.linspace(0, num_frames - 1, count).round().astype(int).tolist()


def timed(began: float, frames: Tensor) -> Tensor:
    """Return the CPU seconds of this process since `began`, and a checksum of each frame: float64 [1 + T]."""
    return torch.tensor([time.process_time() - began, *checksums(frames).tolist()], dtype=torch.float64)


def checksums(frames: Tensor) -> Tensor:
    """Compute a checksum of each frame's pixels: int64 [T]."""
    return torch.tensor([zlib.crc32(frame.contiguous().numpy()) for frame in frames])


def open_session(fs: FlexSelect, path: str, count: int) -> Tensor:
    """Open a session: decode, resize and encode; return the mean of each token's features."""
    fs.family.max_frames = count
    return fs.open(path, progress=False).encode().features.mean(1)


def with_model(path: str, count: int) -> tuple[FlexSelect, str, int]:
    """Return the arguments of `open_session`, with the demo's model at the published frame size."""
    disable_progress_bar()
    numbers = {"max_pixels": AREA[1], "min_pixels": AREA[0], "fps": float("inf")}
    options = {"dtype": "float32", "device": "cpu", "selector": "self", **numbers}
    return FlexSelect.from_pretrained("checkpoints/demo/video_llm", **options), path, count


def with_path(path: str, count: int) -> tuple[str, int]:
    """Return the arguments of `with_reader` and `with_get_batch`."""
    return path, count


def methods() -> dict[str, Callable[..., Tensor]]:
    """Return what is measured, by name: the readers that can be used here, and decord alone."""
    usable = dict[str, Callable[..., Tensor]]()
    for name in ("pyav", "torchcodec", "decord"):
        try:
            load_reader(name)
            usable[name] = partial(with_reader, name)
        except ValueError as error:
            print(f"not measured: {error}")
    return usable | ({"get_batch": with_get_batch} if "decord" in usable else {})


def main() -> None:
    """Measure the readers, decord alone and a whole session; print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, default=20)
    parser.add_argument("--frames", type=int, nargs="+", default=[64, 128])
    options = parser.parse_args()
    path, measured_by, rows = str(long_video(options.minutes)), methods(), []
    print(f"{options.minutes} minutes of {WIDTH} x {HEIGHT}, {FPS} frames per second, H.264; resized to 308 x 532")
    print(f"{'frames':>7}{'':12}{'seconds':>10}{'CPU s':>10}{'ratio':>8}{'extra MB':>10}{'same':>7}")
    for count in options.frames:
        first = None  # the default reader's seconds and checksums
        for name, method in measured_by.items():
            mb, seconds, (cpu, *sums) = alone(method, partial(with_path, path), count, 2, times=1)
            first = first or (seconds, sums)
            same = sums == first[1]
            shown = f"{seconds:10.1f}{cpu:10.1f}{seconds / first[0]:8.2f}{mb:10.0f}{same!s:>7}"
            print(f"{count:7} {name:11}{shown}", flush=True)
            measured = {"seconds": seconds, "cpu_seconds": cpu, "ratio": seconds / first[0], "extra_mb": mb}
            rows.append({"frames": count, "reader": name, **measured, "same": same})
        mb, seconds, _ = alone(open_session, partial(with_model, path), count, 2, times=1)
        print(f"{count:7} {'open':11}{seconds:10.1f}{'':18}{mb:10.0f}", flush=True)
        rows.append({"frames": count, "reader": "open", "seconds": seconds, "extra_mb": mb})
    about = {"minutes": options.minutes, "size": [HEIGHT, WIDTH], "fps": FPS}
    write_result(f"decode_{options.minutes}_minutes", about, rows)


if __name__ == "__main__":
    main()
