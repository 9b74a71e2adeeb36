"""Expected file size according to the container: a download that was cut short is often still playable."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # element ids of Matroska and WebM
BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"sidx", b"styp", b"uuid", b"mfra", b"udta")


def promised_size(path: Path) -> int | None:
    """Return the file size that the container promises, in bytes; None if it has none (MPEG-TS, live recordings)."""
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
    """Return the end of the segment, which is the only element after the header."""
    file.read(len(EBML))
    header = _read_size(file)
    if header is None:
        return None
    file.seek(header, 1)
    if file.read(len(SEGMENT)) != SEGMENT:
        return None
    size = _read_size(file)
    return None if size is None else file.tell() + size


def _read_size(file: BinaryIO) -> int | None:
    """Read an EBML size of n + 1 bytes, n = leading zero bits of the first byte; None if all bits are 1 (unknown)."""
    first = file.read(1)
    if not first or first == b"\0":
        return None
    length = 9 - first[0].bit_length()
    value = int.from_bytes(first + file.read(length - 1), "big") & ((1 << 7 * length) - 1)
    return None if value == (1 << 7 * length) - 1 else value


def _mp4(file: BinaryIO, file_size: int) -> int | None:
    """Return the end of the last box that begins in the file."""
    end = 0
    while end + 8 <= file_size:
        file.seek(end)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        size = int.from_bytes(head[8:16], "big") if size == 1 else size
        if size < 8 or head[4:8] not in BOXES:  # size 0: the box ends with the file; otherwise not a box
            return None
        end += size
    return end
