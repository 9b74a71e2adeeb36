"""Tell from the first bytes of an H.264 or HEVC packet whether other frames are built on its frame.

The container's own mark (`Packet.is_disposable`) is missing in most files. The decoder leaves out frames by the bits
that are read here, so what is counted is what it decodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import av

START_CODE = b"\0\0\1"  # before each unit of a stream that can be entered anywhere, such as MPEG-TS

# By the first byte of a unit: whether frames are built on its frame, or None if it is no part of a picture.
H264 = [first >> 5 & 3 > 0 if 1 <= first & 31 <= 5 else None for first in range(256)]
HEVC = [None if first >> 1 & 63 >= 32 else first >> 1 & 63 >= 16 or bool(first & 2) for first in range(256)]


def reference_test(context: Any) -> Callable[[av.Packet], bool]:
    """Return a function that says of a packet of a track whether frames are built on its frame.

    Of other codecs than H.264 and HEVC, only the container's mark is known: frames without it count as references.

    Args:
        context: the codec context of the track.
    """
    meaning, header = {"h264": (H264, 4), "hevc": (HEVC, 21)}.get(context.name, (None, 0))
    if meaning is None:
        return lambda packet: not packet.is_disposable
    extra = context.extradata or b""
    if len(extra) > header and extra[0] == 1:  # as in MP4 and MKV: the length of each unit is written before it
        return lambda packet: _by_lengths(memoryview(packet), (extra[header] & 3) + 1, meaning)
    return lambda packet: _by_codes(bytes(packet), meaning)


def _by_lengths(data: memoryview, size: int, meaning: list[bool | None]) -> bool:
    """Look for the first unit of a picture; the length of each unit takes `size` bytes."""
    place = 0
    while place + size < len(data):
        is_reference = meaning[data[place + size]]
        if is_reference is not None:
            return is_reference
        place += size + int.from_bytes(data[place : place + size], "big")
    return True


def _by_codes(data: bytes, meaning: list[bool | None]) -> bool:
    """Look for the first unit of a picture; a start code is before each unit."""
    place = data.find(START_CODE) + len(START_CODE)
    while len(START_CODE) <= place < len(data):
        is_reference = meaning[data[place]]
        if is_reference is not None:
            return is_reference
        place = data.find(START_CODE, place) + len(START_CODE)
    return True
