"""Animated WebP, which FFmpeg opens and does not decode: read by Pillow, with the same index as any video."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.video_files.frame_index import FrameIndex

LEAST = 10  # milliseconds; a frame that is shown for no time is shown for as long as browsers show it
BROWSERS = 100


def is_animated_webp(path: Path) -> bool:
    """Whether a file is a WebP with the mark of an animation."""
    with path.open("rb") as file:
        head = file.read(64)
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and bool(head[20] & 2)


def read_animation(path: Path) -> FrameIndex:
    """Where the frames of an animation are; each is decoded once for it.

    Raises:
        OSError: for a file that is broken.
    """
    durations = []
    image: Any  # Pillow's type of an open file does not know of its frames
    with Image.open(path) as image:
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            shown = int(image.info.get("duration", 0))
            durations.append(shown if shown > LEAST else BROWSERS)
    times = [0, *np.cumsum(durations[:-1]).tolist()]
    return FrameIndex(
        path=str(path),
        track=0,
        tracks=1,
        times=times,
        seconds=[time / 1000 for time in times],
        starts_at=0.0,
        keys=[0],
        timed=True,
        seekable=False,
        codec="webp",
        header_rate=1000 / durations[0] if len(durations) == 1 else None,
        pixel_aspect=Fraction(1),
        last_shown=durations[-1] / 1000,
    )


class AnimationFrames:
    """The frames of an animation, forwards only (a `FrameSource`).

    Args:
        index: of the file.
        wanted: not needed: all frames are built on the one before.
    """

    def __init__(self, index: FrameIndex, wanted: frozenset[int]) -> None:
        self._index = index
        self._image = Image.open(index.path)

    def frame(self, time: int) -> np.ndarray:
        """The frame shown at a timestamp: uint8 [h, w, 3], over black."""
        self._image.seek(self._index.times.index(time))
        black = Image.new("RGBA", self._image.size, (0, 0, 0, 255))
        return np.array(Image.alpha_composite(black, self._image.convert("RGBA")).convert("RGB"))

    def close(self) -> None:
        """Let go of the file."""
        self._image.close()
