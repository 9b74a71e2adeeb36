"""Whether a file is shorter than its own container says: a download that was cut is often still playable."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # of Matroska and WebM
BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"sidx", b"styp", b"uuid", b"mfra", b"udta")


def promised_size(path: Path) -> int | None:
    """How many bytes a file has by its container; None where that does not say (MPEG-TS, live recordings)."""
    with path.open("rb") as file:
        head = file.read(12)
        file.seek(0)
        if head[:4] == EBML:
            return _matroska(file)
        if head[:4] == b"RIFF":
            size = int.from_bytes(head[4:8], "little")
            return 8 + size if size else None
        if head[4:8] in BOXES:
            return _mp4(file, path.stat().st_size)
    return None


def _matroska(file: BinaryIO) -> int | None:
    """The end of the segment, the one element after the header."""
    file.read(len(EBML))
    header = _number(file)
    if header is None:
        return None
    file.seek(header, 1)
    if file.read(len(SEGMENT)) != SEGMENT:
        return None
    size = _number(file)
    return None if size is None else file.tell() + size


def _number(file: BinaryIO) -> int | None:
    """An EBML size: as many bytes as its first has leading zeros, and one; None if all is set, which means unknown."""
    first = file.read(1)
    if not first or first == b"\0":
        return None
    length = 9 - first[0].bit_length()
    value = int.from_bytes(first + file.read(length - 1), "big") & ((1 << 7 * length) - 1)
    return None if value == (1 << 7 * length) - 1 else value


def _mp4(file: BinaryIO, there: int) -> int | None:
    """The end of the last box that begins in the file."""
    at = 0
    while at + 8 <= there:
        file.seek(at)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        size = int.from_bytes(head[8:16], "big") if size == 1 else size
        if size < 8 or head[4:8] not in BOXES:  # 0: to the end of the file; anything else is no box
            return None
        at += size
    return at
