"""Decoding a long 1080p video: sampled frames, resized, beside decord's `get_batch` at native resolution.

    python -m bench.decode        (in `make bench`; --minutes 120 --frames 1024 for two hours)

A half-minute is rendered with libx264 and repeated without encoding it again. Each way runs in a process of its own;
`open` is a whole session of the demo's model at the published size of frames: decoded, encoded and let go of.
"""

from __future__ import annotations

import argparse
import zlib
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import decord
import numpy as np
import torch
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from bench.measure import alone, write_result
from datamodules.video import read_video
from flexselect import FlexSelect
from flexselect.families.inputs import to_area

HEIGHT, WIDTH, FPS, PIECE = 1080, 1920, 24, 30  # pixels, frames a second, seconds rendered
AREA = 128 * 28**2, 308 * 560  # of Qwen2.5-VL, as published


def render(path: Path) -> None:
    """Half a minute of a moving texture."""
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


def repeated(piece: Path, path: Path, times: int) -> None:
    """Its packets again and again, later each time."""
    with av.open(str(path), "w") as out:
        stream, offset = None, Fraction(0)
        for _ in range(times):
            with av.open(str(piece)) as container:
                source = container.streams.video[0]
                stream = stream or out.add_stream_from_template(source)
                for packet in container.demux(source):
                    if packet.dts is not None:
                        packet.pts += round(offset / source.time_base)
                        packet.dts += round(offset / source.time_base)
                        packet.stream = stream
                        out.mux(packet)
            offset += PIECE


def long_video(minutes: int) -> Path:
    """So many minutes, rendered once."""
    folder = Path("outputs/bench")
    folder.mkdir(parents=True, exist_ok=True)
    piece, path = folder / "piece.mp4", folder / f"{minutes}_minutes.mp4"
    if not path.exists():
        render(piece)
        repeated(piece, path, minutes * 60 // PIECE)
    return path


def resized(frames: Tensor) -> Tensor:
    """As Qwen2.5-VL takes them."""
    return to_area(frames, 28, *AREA)


def get_batch(path: str, count: int) -> Tensor:
    """All at once, then resized."""
    reader = decord.VideoReader(path)
    indices = np.linspace(0, len(reader) - 1, count).round().astype(int)
    frames = torch.from_numpy(reader.get_batch(indices).asnumpy())
    return checksums(torch.cat([resized(some) for some in frames.split(8)]))


def ours(path: str, count: int) -> Tensor:
    """Some at a time, each resized as it comes."""
    frames, _ = read_video(path, lambda n, fps: np.linspace(0, n - 1, count).round().astype(int).tolist(), resized)
    return checksums(frames)


def checksums(frames: Tensor) -> Tensor:
    """A number for each frame that any other pixel would change: int64 [T]."""
    return torch.tensor([zlib.crc32(frame.contiguous().numpy()) for frame in frames])


def opened(fs: FlexSelect, path: str, count: int) -> Tensor:
    """A whole session: decoded, resized, encoded, and let go of."""
    fs.family.max_frames = count
    return fs.open(path, progress=False).encode().features.mean(1)


def with_model(path: str, count: int) -> tuple[FlexSelect, str, int]:
    """The demo's model at the published size of frames."""
    disable_progress_bar()
    numbers = {"max_pixels": AREA[1], "min_pixels": AREA[0], "fps": float("inf")}
    about = {"dtype": "float32", "device": "cpu", "selector": "self", **numbers}
    return FlexSelect.from_pretrained("checkpoints/demo/video_llm", **about), path, count


def with_path(path: str, count: int) -> tuple[str, int]:
    """The arguments of both."""
    return path, count


def main() -> None:
    """Print both and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, default=20)
    parser.add_argument("--frames", type=int, nargs="+", default=[64, 128])
    options = parser.parse_args()
    path = str(long_video(options.minutes))
    print(f"{options.minutes} minutes of {WIDTH} x {HEIGHT}, {FPS} frames a second, H.264; resized to 308 x 532")
    heads = ("get_batch s", "ours s", "ratio", "get_batch MB", "ours MB", "same", "open s", "open MB")
    print(f"{'frames':>7}" + "".join(f"{head:>13}" for head in heads))
    rows = []
    for count in options.frames:
        theirs_mb, theirs_s, expected = alone(get_batch, partial(with_path, path), count, 2, times=1)
        mb, seconds, result = alone(ours, partial(with_path, path), count, 2, times=1)
        open_mb, open_s, _ = alone(opened, partial(with_model, path), count, 2, times=1)
        same = bool((result == expected).all())
        shown = [f"{value:13.1f}" for value in (theirs_s, seconds)] + [f"{theirs_s / seconds:13.2f}"]
        shown += [f"{value:13.0f}" for value in (theirs_mb, mb)] + [f"{same!s:>13}{open_s:13.1f}{open_mb:13.0f}"]
        print(f"{count:7}" + "".join(shown), flush=True)
        took = {"get_batch_s": theirs_s, "ours_s": seconds, "open_s": open_s, "ratio": theirs_s / seconds, "same": same}
        rows.append({"frames": count, **took, "get_batch_mb": theirs_mb, "ours_mb": mb, "open_mb": open_mb})
    write_result(
        f"decode_{options.minutes}_minutes", {"minutes": options.minutes, "size": [HEIGHT, WIDTH], "fps": FPS}, rows
    )


if __name__ == "__main__":
    main()
