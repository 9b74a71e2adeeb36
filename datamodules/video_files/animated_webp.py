"""Animated WebP, read by Pillow because FFmpeg opens it but cannot decode it; the index is the same as a video's."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.video_files.frame_index import FrameIndex

SHORTEST = 10  # milliseconds; browsers show a frame with this duration or a shorter one for `BROWSER_DURATION`
BROWSER_DURATION = 100  # milliseconds


def is_animated_webp(path: Path) -> bool:
    """Return whether a file is a WebP with the animation flag."""
    with path.open("rb") as file:
        head = file.read(64)
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and bool(head[20] & 2)


def read_animation(path: Path) -> FrameIndex:
    """Build the frame index of an animation; this decodes every frame once.

    Raises:
        OSError: if the file is broken.
    """
    durations = []
    image: Any  # Pillow's type for an open file has no `n_frames`
    with Image.open(path) as image:
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            duration = int(image.info.get("duration", 0))
            durations.append(duration if duration > SHORTEST else BROWSER_DURATION)
    times = [0, *np.cumsum(durations[:-1]).tolist()]
    return FrameIndex(
        path=str(path),
        track=0,
        moving_tracks=1,
        times=times,
        seconds=[time / 1000 for time in times],
        starts_at=0.0,
        key_times=[0],
        has_timestamps=True,
        seekable=False,
        codec="webp",
        header_rate=1000 / durations[0] if len(durations) == 1 else None,
        pixel_aspect=Fraction(1),
        last_duration=durations[-1] / 1000,
    )


class AnimationFrames:
    """Reader of an animation's frames, forwards only (a `FrameSource`).

    Args:
        index: frame index of the file.
        wanted: unused, because each frame is built on the one before.
    """

    def __init__(self, index: FrameIndex, wanted: frozenset[int]) -> None:
        self._index = index
        self._image = Image.open(index.path)

    def frame(self, time: int) -> np.ndarray:
        """Return the frame shown at a timestamp, uint8 [h, w, 3], transparent parts black."""
        self._image.seek(self._index.times.index(time))
        black = Image.new("RGBA", self._image.size, (0, 0, 0, 255))
        return np.array(Image.alpha_composite(black, self._image.convert("RGBA")).convert("RGB"))

    def close(self) -> None:
        """Close the file."""
        self._image.close()
