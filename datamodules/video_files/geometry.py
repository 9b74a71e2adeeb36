"""Turn a decoded frame into the picture that players show: upright, square pixels, transparent parts black."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np

MAX_ASPECT = 10  # a pixel aspect ratio above this, or below its inverse, comes from a damaged header
WITHOUT_TONE_MAPPING = {16: "PQ", 18: "HLG"}  # HDR transfer functions by their number in ISO/IEC 23091-2
# PyAV 17 and later start a thread per core for each frame, unless they are told not to; earlier ones start none.
ONE_THREAD: dict[str, Any] = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}

DisplayMatrix = tuple[int, int, int, int]  # a, b, c, d: a stored point (p, q) is shown at (a p + c q, b p + d q)


def to_picture(frame: av.VideoFrame, pixel_aspect: Fraction, matrix: DisplayMatrix | None) -> np.ndarray:
    """Convert a frame to a picture, uint8 [h, w, 3].

    Args:
        frame: a decoded frame. Interlaced fields stay interleaved, more than 8 bits are rounded to 8, and HDR gets no
            tone mapping.
        pixel_aspect: width over height of a stored pixel; the picture's width is multiplied by it.
        matrix: how to turn and mirror the picture; None leaves it unchanged.
    """
    width = max(1, round(frame.width * pixel_aspect))
    has_alpha = frame.format.has_palette or any(component.is_alpha for component in frame.format.components)
    size: dict[str, Any] = (
        {} if width == frame.width else {"width": width, "height": frame.height, "interpolation": "BICUBIC"}
    )
    converted = frame.reformat(format="rgba" if has_alpha else "rgb24", **size, **ONE_THREAD)
    pixels = _pixels(converted, 4 if has_alpha else 3)
    if has_alpha:
        pixels = ((pixels[..., :3].astype(np.uint16) * pixels[..., 3:] + 127) // 255).astype(np.uint8)
    return make_upright(pixels, matrix)


def _pixels(frame: av.VideoFrame, channels: int) -> np.ndarray:
    """Return a frame's pixels, uint8 [h, w, channels], without copying them unless its rows have padding."""
    plane = frame.planes[0]
    shape, strides = (frame.height, frame.width, channels), (plane.line_size, channels, 1)
    return np.ascontiguousarray(np.ndarray(shape, np.uint8, memoryview(plane), strides=strides))


def usable_aspect(aspect: Fraction | None) -> Fraction:
    """Return the header's pixel aspect ratio, or 1 if it is missing or implausible."""
    if not aspect or not Fraction(1, MAX_ASPECT) <= aspect <= MAX_ASPECT:
        return Fraction(1)
    return aspect


def make_upright(pixels: np.ndarray, matrix: DisplayMatrix | None) -> np.ndarray:
    """Turn a picture [h, w, 3] by quarter turns and mirror it; a matrix of None leaves it unchanged."""
    swapped, mirrored = orientation(matrix)
    pixels = pixels.swapaxes(0, 1) if swapped else pixels
    return np.ascontiguousarray(np.flip(pixels, mirrored))


def orientation(matrix: DisplayMatrix | None) -> tuple[bool, tuple[int, ...]]:
    """Return how a matrix makes pictures upright: whether rows become columns, and which axes are mirrored then."""
    if matrix is None:
        return False, ()
    a, b, c, d = matrix
    swapped = abs(b) + abs(c) > abs(a) + abs(d)  # rotated by 90 or 270 degrees
    across, down = (c, b) if swapped else (a, d)
    return swapped, tuple(axis for axis, factor in ((1, across), (0, down)) if factor < 0)


def read_display_matrix(frame: av.VideoFrame) -> DisplayMatrix | None:
    """Read how to turn and mirror a frame from its side data; None if it has no display matrix."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32).tolist()
    return a, b, c, d
