"""Time and memory to decode and resize sampled frames of a long 1080p video, compared with decord's `get_batch`.

    python -m bench.decode        (in `make bench`; --minutes 120 --frames 1024 for two hours)

Half a minute is rendered with libx264 and repeated without encoding it again. decord returns frames at native
resolution, which are then resized. Each measurement runs in a separate process. `open` is a whole session of the demo's
model at the published frame size: decoding and encoding.
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
from flexselect.families.inputs import resize_to_area

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


def repeat(piece: Path, path: Path, times: int) -> None:
    """Write the packets of a video several times in a row, with shifted timestamps."""
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
    """Return a video of this length; render it if it does not exist."""
    folder = Path("outputs/bench")
    folder.mkdir(parents=True, exist_ok=True)
    piece, path = folder / "piece.mp4", folder / f"{minutes}_minutes.mp4"
    if not path.exists():
        render(piece)
        repeat(piece, path, minutes * 60 // PIECE)
    return path


def resize(frames: Tensor) -> Tensor:
    """Resize frames to the size that Qwen2.5-VL takes."""
    return resize_to_area(frames, 28, *AREA)


def with_decord(path: str, count: int) -> Tensor:
    """Decode all frames at once with decord, then resize them; return their checksums."""
    reader = decord.VideoReader(path)
    indices = np.linspace(0, len(reader) - 1, count).round().astype(int)
    frames = torch.from_numpy(reader.get_batch(indices).asnumpy())
    return checksums(torch.cat([resize(chunk) for chunk in frames.split(8)]))


def with_read_video(path: str, count: int) -> Tensor:
    """Decode and resize a few frames at a time with this project's reader; return their checksums."""
    frames, _ = read_video(path, lambda n, fps: np.linspace(0, n - 1, count).round().astype(int).tolist(), resize)
    return checksums(frames)


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
    """Return the arguments of `with_decord` and `with_read_video`."""
    return path, count


def main() -> None:
    """Measure decord, this project's reader and a whole session; print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, default=20)
    parser.add_argument("--frames", type=int, nargs="+", default=[64, 128])
    options = parser.parse_args()
    path = str(long_video(options.minutes))
    print(f"{options.minutes} minutes of {WIDTH} x {HEIGHT}, {FPS} frames per second, H.264; resized to 308 x 532")
    heads = ("get_batch s", "ours s", "ratio", "get_batch MB", "ours MB", "same", "open s", "open MB")
    print(f"{'frames':>7}" + "".join(f"{head:>13}" for head in heads))
    rows = []
    for count in options.frames:
        decord_mb, decord_s, expected = alone(with_decord, partial(with_path, path), count, 2, times=1)
        mb, seconds, actual = alone(with_read_video, partial(with_path, path), count, 2, times=1)
        open_mb, open_s, _ = alone(open_session, partial(with_model, path), count, 2, times=1)
        same = bool((actual == expected).all())
        shown = [f"{value:13.1f}" for value in (decord_s, seconds)] + [f"{decord_s / seconds:13.2f}"]
        shown += [f"{value:13.0f}" for value in (decord_mb, mb)] + [f"{same!s:>13}{open_s:13.1f}{open_mb:13.0f}"]
        print(f"{count:7}" + "".join(shown), flush=True)
        times = {"get_batch_s": decord_s, "ours_s": seconds, "open_s": open_s, "ratio": decord_s / seconds}
        memory = {"get_batch_mb": decord_mb, "ours_mb": mb, "open_mb": open_mb}
        rows.append({"frames": count, **times, "same": same, **memory})
    write_result(
        f"decode_{options.minutes}_minutes", {"minutes": options.minutes, "size": [HEIGHT, WIDTH], "fps": FPS}, rows
    )


if __name__ == "__main__":
    main()
