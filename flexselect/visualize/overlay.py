"""A video of all units, with kept tokens, heat map and timeline."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from flexselect.storage.video_writer import write_video
from flexselect.visualize.frames import light, painter
from flexselect.visualize.style import clock_time, fonts, length_text
from flexselect.visualize.token_map import TokenMap

BAND = 24  # pixels: height of the timeline
MIN_HEIGHT = 240  # pixels: smaller frames are enlarged
TEXT = 14  # pixels: size of the letters
UNKNOWN_PACE = 4  # units per second, if times are unknown


def overlay(path: str | Path, token_map: TokenMap, title: str = "") -> None:
    """Write an mp4 that shows every unit at the video's pace: kept tokens on the left, heat map on the right.

    Above them are the title and the clock, below a timeline. Frames are decoded, drawn and written one at a time.

    Args:
        path: mp4 to write.
        token_map: the selection on the frames, see `map_tokens`.
        title: the text above, for example question and answer.
    """
    pace, repeats = Fraction(UNKNOWN_PACE), 1
    if token_map.seconds is not None:
        span = token_map.edges[-1] - token_map.edges[0]
        repeats = math.ceil(span / token_map.num_units)  # at least a frame per second: players seek by frames
        pace = Fraction(repeats * token_map.num_units / span).limit_denominator(1000)
    frames = (frame[None] for frame in _drawn(token_map, title) for _ in range(repeats))
    write_video(path, frames, pace)


def _drawn(token_map: TokenMap, title: str) -> Iterator[np.ndarray]:
    paint = painter(token_map)
    for unit, frame in enumerate(token_map.frames(range(token_map.num_units))):
        frame = frame.repeat(times := -(-MIN_HEIGHT // len(frame)), 0).repeat(times, 1)
        sides = [light(frame, token_map.kept[unit]), *([paint(frame, unit)] if token_map.scored else [])]
        both = np.concatenate(sides, axis=1)
        width = both.shape[1]
        picture = np.concatenate([_head(token_map, unit, title, width), both, _band(token_map, unit, width)])
        height, width = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2
        yield np.ascontiguousarray(picture[:height, :width])


def _head(token_map: TokenMap, unit: int, title: str, width: int) -> np.ndarray:
    """Draw the title, in as many lines as it needs, with the clock in front: uint8 [h, width, 3]."""
    clock = f"unit {unit + 1} of {token_map.num_units}"
    if token_map.seconds is not None:
        clock = f"{clock_time(token_map.seconds[unit])} / {length_text(token_map.edges[-1])}"
    font = _font(title)
    lines = [clock, *_wrapped(title, font, width - 12)]
    image = Image.new("RGB", (width, (TEXT + 6) * len(lines) + 6), (20, 20, 20))
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((6, 4 + (TEXT + 6) * number), line, font=font, fill=(255, 255, 255) if number else (255, 170, 80))
    return np.asarray(image)


def _font(text: str) -> Any:
    """Return the font of pictures; for a text outside Latin, an installed one for Chinese, Japanese and Korean."""
    from matplotlib.font_manager import FontProperties, findfont

    names = fonts()
    name = names[-1] if any(ord(letter) > 0x2E80 for letter in text) else names[0]
    return ImageFont.truetype(findfont(FontProperties(family=name)), TEXT)


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    """Break a text into lines of at most `width` pixels, between words where it can be."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        while font.getlength(word) > width:
            cut = next(n for n in range(len(word), 0, -1) if n == 1 or font.getlength(word[:n]) <= width)
            lines += [line, word[:cut]] if line else [word[:cut]]
            line, word = "", word[cut:]
        longer = f"{line} {word}".strip()
        if font.getlength(longer) <= width:
            line = longer
        else:
            lines.append(line)
            line = word
    return [*lines, line] if line else lines


def _band(token_map: TokenMap, unit: int, width: int) -> np.ndarray:
    """Draw kept tokens per unit as bars, with a white line at this unit: uint8 [BAND, width, 3]."""
    unit_by_column = np.arange(width) * token_map.num_units // width
    tall = token_map.kept_by_unit[unit_by_column] / max(1, token_map.kept_by_unit.max()) * (BAND - 4)
    band = np.where(np.arange(BAND)[::-1, None] < tall, 170, 40).astype(np.uint8)[..., None].repeat(3, -1)
    position = int((unit + 0.5) / token_map.num_units * width)
    band[:, max(0, position - 1) : position + 1] = 255
    return band
