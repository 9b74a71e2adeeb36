"""A decoded frame as players show it: upright, square pixels, transparent parts black."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np

WIDEST = 10  # a pixel more oblong than this, either way, is a damaged header
WITHOUT_TONE_MAPPING = {16: "PQ", 18: "HLG"}  # transfer functions of HDR, by their number in ISO/IEC 23091-2


DisplayMatrix = tuple[int, int, int, int]  # a, b, c, d: a stored point (p, q) is shown at (a p + c q, b p + d q)


def picture(frame: av.VideoFrame, pixel_aspect: Fraction, matrix: DisplayMatrix | None) -> np.ndarray:
    """The picture of a frame: uint8 [h, w, 3].

    Args:
        frame: as the decoder gives it. Interlaced fields stay woven together, more than 8 bits are rounded to 8, and
            HDR is taken without tone mapping.
        pixel_aspect: width of a stored pixel over its height; the width of the picture is stretched by it.
        matrix: turns and mirrors the picture.
    """
    width = max(1, round(frame.width * pixel_aspect))
    see_through = frame.format.has_palette or any(component.is_alpha for component in frame.format.components)
    size: dict[str, Any] = (
        {} if width == frame.width else {"width": width, "height": frame.height, "interpolation": "BICUBIC"}
    )
    pixels = frame.to_ndarray(format="rgba" if see_through else "rgb24", **size)
    if see_through:
        pixels = ((pixels[..., :3].astype(np.uint16) * pixels[..., 3:] + 127) // 255).astype(np.uint8)
    return upright(pixels, matrix)


def usable_aspect(aspect: Fraction | None) -> Fraction:
    """A pixel's aspect ratio as a header has it; 1 where it has none, or one that cannot be meant."""
    if not aspect or not Fraction(1, WIDEST) <= aspect <= WIDEST:
        return Fraction(1)
    return aspect


def upright(pixels: np.ndarray, matrix: DisplayMatrix | None) -> np.ndarray:
    """Turn and mirror a picture [h, w, 3], in quarter turns; None leaves it as it is stored."""
    if matrix is None:
        return pixels
    a, b, c, d = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):  # lies on its side
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    if a < 0:
        pixels = pixels[:, ::-1]
    if d < 0:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def display_matrix(frame: av.VideoFrame) -> DisplayMatrix | None:
    """How a frame is to be turned and mirrored; None where it does not say."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32).tolist()
    return a, b, c, d
