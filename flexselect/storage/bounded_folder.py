"""Keep a folder of files below a size; any number of processes may share it."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

STALE = 3600  # seconds; a temporary file older than this was left by a killed process


def make_room(newest: Path, max_bytes: int) -> None:
    """Delete the least recently used files of a folder until the rest fits.

    Args:
        newest: the file that was just written. Only files beside it with its ending count, and temporary ones that a
            killed process left are deleted. It stays, unless it is larger than the whole room.
        max_bytes: size of all these files together.
    """
    files = []
    for file in newest.parent.glob(f"*{newest.suffix}"):
        try:
            status = file.stat()
        except FileNotFoundError:  # deleted by another process
            continue
        files.append((status.st_mtime_ns, status.st_size, file))
    for temporary in newest.parent.glob("*.tmp"):
        with suppress(FileNotFoundError):
            if time.time() - temporary.stat().st_mtime > STALE:
                temporary.unlink()
    total = sum(size for _, size, _ in files)
    for _, size, file in sorted(files):
        if total <= max_bytes:
            return
        if file != newest or size > max_bytes:
            file.unlink(missing_ok=True)
            total -= size
