"""A video of all units, with kept tokens, heat map and timeline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flexselect.storage.video_writer import write_video
from flexselect.visualize.frames import dim, painter
from flexselect.visualize.token_map import TokenMap

BAND = 24  # pixels: height of the timeline
MIN_HEIGHT = 240  # pixels: smaller frames are enlarged


def overlay(path: str | Path, token_map: TokenMap, units_per_second: int = 4) -> None:
    """Write an mp4 that shows every unit once: kept tokens on the left, heat map on the right, timeline below.

    Frames are decoded, drawn and written one at a time.

    Args:
        path: mp4 to write.
        token_map: the selection on the frames, see `map_tokens`.
        units_per_second: playback speed.
    """
    write_video(path, (frame[None] for frame in _drawn(token_map)), units_per_second)


def _drawn(token_map: TokenMap) -> Iterator[np.ndarray]:
    paint = painter(token_map)
    for unit, frame in enumerate(token_map.frames(range(token_map.num_units))):
        frame = frame.repeat(times := -(-MIN_HEIGHT // len(frame)), 0).repeat(times, 1)
        sides = [dim(frame, token_map.kept[unit]), *([paint(frame, unit)] if token_map.scored else [])]
        both = np.concatenate(sides, axis=1)
        picture = np.concatenate([both, _band(token_map, unit, both.shape[1])])
        height, width = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2
        yield np.ascontiguousarray(picture[-height:, :width])


def _band(token_map: TokenMap, unit: int, width: int) -> np.ndarray:
    """Draw kept tokens per unit as bars, with a white line at this unit: uint8 [BAND, width, 3]."""
    unit_by_column = np.arange(width) * token_map.num_units // width
    tall = token_map.kept_by_unit[unit_by_column] / max(1, token_map.kept_by_unit.max()) * (BAND - 4)
    band = np.where(np.arange(BAND)[::-1, None] < tall, 170, 40).astype(np.uint8)[..., None].repeat(3, -1)
    position = int((unit + 0.5) / token_map.num_units * width)
    band[:, max(0, position - 1) : position + 1] = 255
    return band
