"""The whole video as the model sees it: kept tokens lit, heat beside them, a timeline below."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flexselect.storage.video_writer import write_video
from flexselect.visualize.frames import light, painter
from flexselect.visualize.look import Look

BAND = 24  # pixels of the timeline
LEAST = 240  # pixels: smaller frames are enlarged


def overlay(path: str | Path, look: Look, units_per_second: int = 4) -> None:
    """Write an mp4 that shows every unit once: left the kept tokens lit, right the heat map, below where it is.

    Frames are decoded, drawn and written one at a time.

    Args:
        path: mp4 to write.
        look: see `look_at`.
        units_per_second: how fast.
    """
    write_video(path, (frame[None] for frame in _drawn(look)), units_per_second)


def _drawn(look: Look) -> Iterator[np.ndarray]:
    paint = painter(look)
    for unit, frame in enumerate(look.frames(range(look.num_units))):
        frame = frame.repeat(times := -(-LEAST // len(frame)), 0).repeat(times, 1)
        sides = [light(frame, look.kept[unit]), *([paint(frame, unit)] if look.scored else [])]
        both = np.concatenate(sides, axis=1)
        picture = np.concatenate([both, _band(look, unit, both.shape[1])])
        height, width = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2
        yield np.ascontiguousarray(picture[-height:, :width])


def _band(look: Look, unit: int, width: int) -> np.ndarray:
    """Bars of tokens kept along the video, and a white line where this unit is: uint8 [BAND, width, 3]."""
    of_column = np.arange(width) * look.num_units // width
    tall = look.kept_by_unit[of_column] / max(1, look.kept_by_unit.max()) * (BAND - 4)
    band = np.where(np.arange(BAND)[::-1, None] < tall, 170, 40).astype(np.uint8)[..., None].repeat(3, -1)
    here = int((unit + 0.5) / look.num_units * width)
    band[:, max(0, here - 1) : here + 1] = 255
    return band
