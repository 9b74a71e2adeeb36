"""Stored pictures of a video track, as other libraries decode them, and how they become upright and square.

The libraries get only containers that they read right, as the tests show. In MPEG-TS, for example, both lose frames,
because they seek back to the start after looking at the file.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from fractions import Fraction
from typing import NamedTuple

import av
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from datamodules.video_files.decoding import ReaderError, open_container
from datamodules.video_files.frame_index import FrameIndex
from datamodules.video_files.geometry import DisplayMatrix, orientation

CONTAINERS = ("mp4", "matroska", "avi")  # as FFmpeg calls them; MOV has the name "mp4" too, and WebM "matroska"


class StoredTrack(NamedTuple):
    """Facts about a video track that the frame index does not have."""

    number: int  # among all streams of the file, sound included
    container: str  # FFmpeg's names for it, separated by commas
    reorders: bool  # whether frames are stored in another order than they are shown in


def refused(reader: str, reason: str) -> ReaderError:
    """Make the error for a file that only the default reader reads."""
    return ReaderError(f"cannot be read by {reader}: {reason}; --data.reader pyav reads it")


def find_track(index: FrameIndex, reader: str) -> StoredTrack:
    """Look at the track of a frame index in its file.

    Raises:
        ReaderError: if the container is none of `CONTAINERS`, or the pictures have transparent parts.
    """
    with open_container(index.path) as container:
        name, stream = container.format.name, container.streams.video[index.track]
        if not any(known in name for known in CONTAINERS):
            reason = "it reads MP4, MOV, MKV, WebM and AVI right, but not"
            raise refused(reader, f"{reason} {name.partition(',')[0]}")
        if index.has_alpha or _is_transparent(stream.codec_context.format):
            raise refused(reader, "it drops the transparency")
        return StoredTrack(stream.index, name, bool(stream.codec_context.has_b_frames))


def _is_transparent(pixels: av.VideoFormat | None) -> bool:
    return pixels is not None and (pixels.has_palette or any(part.is_alpha for part in pixels.components))


def in_words(error: BaseException) -> str:
    """Return what a library says, without the place in its source: one line of at most 120 characters."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.sub(r"^.*\.(cc|cpp|h):\d+[:,] *", "", line)[:120]


def position(index: FrameIndex, time: int) -> int:
    """Return the number of the frame that has a timestamp of the index."""
    return bisect_left(index.times, time)


def turned(matrix: DisplayMatrix | None) -> int:
    """Return by how many quarter turns, clockwise, FFmpeg's rule turns a picture: it leaves mirroring out."""
    if matrix is None:
        return 0
    a, b, c, d = matrix
    return round(math.atan2(b / (math.hypot(b, d) or 1), a / (math.hypot(a, c) or 1)) / (math.pi / 2)) % 4


def to_shown(pixels: Tensor, index: FrameIndex, square_pixels: bool, turns: int = 0) -> Tensor:
    """Make a stored picture the one that players show, on its device: uint8 [h, w, 3] -> uint8 [H, W, 3].

    Args:
        pixels: the picture.
        index: the frame index, for the shape of its pixels and the display matrix.
        square_pixels: whether to stretch pixels that are not square.
        turns: clockwise quarter turns that the library has made already; they are undone first.
    """
    pixels = torch.rot90(pixels, turns)
    aspect = index.pixel_aspect if square_pixels else Fraction(1)
    width = max(1, round(pixels.shape[1] * aspect))
    if width != pixels.shape[1]:
        stored = pixels.permute(2, 0, 1)[None].float()  # [1, 3, h, w]
        stretched = interpolate(stored, (pixels.shape[0], width), mode="bicubic", antialias=True)
        pixels = stretched[0].permute(1, 2, 0).round().clamp(0, 255).byte()
    swapped, mirrored = orientation(index.matrix)
    return (pixels.transpose(0, 1) if swapped else pixels).flip(mirrored).contiguous()
