"""Long videos to measure decoding on: a short piece is rendered, and its packets are repeated without encoding again.

The content moves as in real recordings, so that key frames are about five times as large as others: a camera pans over
a textured scene, objects move across it, and the sensor has noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FPS = 30  # frames per second
PIECE = 25  # seconds rendered: three times x264's default distance of key frames, 250 frames
FOLDER = Path("outputs/bench")
OBJECTS, NOISE = 12, 3.0  # moving objects; standard deviation of the noise
# Codec -> encoder, and options that make frames which others are not built on.
ENCODERS = {
    "h264": ("libx264", {"preset": "veryfast", "crf": "26"}),
    "hevc": ("libx265", {"preset": "superfast", "crf": "28", "x265-params": "log-level=none:bframes=4:b-adapt=1"}),
    "vp9": ("libvpx-vp9", {"deadline": "good", "cpu-used": "5", "crf": "36", "b": "0", "row-mt": "1"}),
    "av1": ("libsvtav1", {"preset": "10", "crf": "38"}),
}


def long_video(minutes: int, size: tuple[int, int], keys: int, codec: str = "h264") -> Path:
    """Return a video; it is rendered if it does not exist.

    Args:
        minutes: length.
        size: height and width in pixels.
        keys: the largest distance between key frames, in frames.
        codec: a key of `ENCODERS`.
    """
    name = f"{codec}_{size[0]}_{keys}"
    piece, path = FOLDER / f"{name}_piece.mp4", FOLDER / f"{name}_{minutes}_minutes.mp4"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        _render(piece, size, keys, codec)
        repeat(piece, FOLDER / "unfinished.mp4", minutes * 60 // PIECE, PIECE)
        (FOLDER / "unfinished.mp4").rename(path)
    return path


def scene(height: int, width: int, count: int) -> Iterator[np.ndarray]:
    """Yield frames, uint8 [h, w, 3]."""
    rng = np.random.default_rng(0)
    ground = _texture(rng, 2 * height, 2 * width)
    objects = []
    for _ in range(OBJECTS):
        radius = int(rng.integers(height // 20, height // 6))
        y, x = np.mgrid[-radius:radius, -radius:radius]
        texture = _texture(rng, 2 * radius, 2 * radius)
        objects.append((texture, (y * y + x * x < radius**2)[..., None], rng.uniform(0, 1, 2), rng.uniform(-1, 1, 2)))
    noise = [rng.normal(0, NOISE, (height, width, 1)).astype(np.int16) for _ in range(7)]
    for i in range(count):
        top, left = int((1 + np.sin(i / 100)) * height / 2), int((1 + np.sin(i / 140)) * width / 2)
        frame = ground[top : top + height, left : left + width].astype(np.int16)
        for texture, mask, place, speed in objects:
            side = len(texture)
            y, x = (1 - abs((place + 0.012 * speed * i) % 2 - 1)) * (height - side, width - side)  # back and forth
            part = frame[int(y) : int(y) + side, int(x) : int(x) + side]
            part[:] = np.where(mask, texture, part)
        yield np.clip(frame + np.roll(noise[i % 7], 37 * i % height, 0), 0, 255).astype(np.uint8)


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Render smooth noise of all sizes, uint8 [h, w, 3]."""
    total = np.zeros((height, width, 3), np.float32)
    for step in (256, 128, 64, 32, 16, 8, 4):
        coarse = rng.normal(0, step**0.8, (height // step + 2, width // step + 2, 3)).astype(np.float32)
        row, column = np.arange(height) / step, np.arange(width) / step
        down, right = (row % 1)[:, None, None], (column % 1)[None, :, None]
        rows = coarse[row.astype(int)] * (1 - down) + coarse[row.astype(int) + 1] * down
        total += rows[:, column.astype(int)] * (1 - right) + rows[:, column.astype(int) + 1] * right
    return np.clip(128 + (total - total.mean()) * 45 / total.std(), 0, 255).astype(np.uint8)


def _render(path: Path, size: tuple[int, int], keys: int, codec: str) -> None:
    """Write a piece."""
    encoder, options = ENCODERS[codec]
    if codec == "av1":
        options = {**options, "svtav1-params": f"keyint={keys}"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=FPS, options=options)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.gop_size = keys
        for frame in scene(*size, PIECE * FPS):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def repeat(piece: Path, path: Path, times: int, seconds: int) -> None:
    """Write the packets of a piece, so many seconds long, several times in a row, with shifted timestamps."""
    with av.open(str(path), "w") as out:
        stream = None
        for number in range(times):
            with av.open(str(piece)) as container:
                source = container.streams.video[0]
                stream = stream or out.add_stream_from_template(source, opaque=True)  # AV1's decoder has no encoder
                shift = round(Fraction(number * seconds) / source.time_base)
                for packet in container.demux(source):
                    if packet.dts is not None:
                        packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                        out.mux(packet)
