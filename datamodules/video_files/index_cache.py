"""Frame indices on disk: the packets of a long file are read once for any number of runs.

The folder is `flexselect/frame_indices` in the user's cache folder ($XDG_CACHE_HOME, else ~/.cache). It may be deleted
at any time. An index is used for a file with the same path, size, modification time and content (at 16 places).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import av
import numpy as np

from datamodules.video_files.frame_index import ARRAYS, FrameIndex, as_arrays
from flexselect.storage.bounded_folder import make_room
from flexselect.storage.file_hash import file_hash
from flexselect.storage.run_settings import file_in_one_step

log = logging.getLogger(__name__)

Reading = tuple[FrameIndex | None, list[str]]  # the index, None if there is no video track; and warnings

FORMAT = 2  # of the files; older ones are not read
MAX_BYTES = 500_000_000  # of the folder: some thousand hours of video
MIN_BYTES = 16_000_000  # of a video; smaller ones are read faster than an index is looked for


def cached_index(file: Path, track: int | None, read: Callable[[], Reading]) -> Reading:
    """Return the index of a video file and its warnings: from the cache, else read and kept.

    A cache that cannot be read or written is no error, because all that it holds can be read again.

    Args:
        file: the video.
        track: the track that was asked for.
        read: reads the index and the warnings.
    """
    folder, before = _folder(), _identity(file, track)
    if folder is None or before is None:
        return read()
    place = folder / f"{hashlib.sha256(before.encode()).hexdigest()[:32]}.npz"
    known = _load(place, file)
    if known is not None:
        return known
    index, warnings = read()
    if index is not None and _identity(file, track) == before:  # otherwise it was written to meanwhile
        _store(place, file, index, warnings)
    return index, warnings


def _folder() -> Path | None:
    """Return the folder of the indices, or None for a user without a home.

    A relative $XDG_CACHE_HOME is ignored, as its specification says.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (base if base.is_absolute() else Path.home() / ".cache") / "flexselect" / "frame_indices"
    except RuntimeError:
        return None


def _identity(file: Path, track: int | None) -> str | None:
    """Return everything that an index depends on except the content; None for a small file, which needs no cache."""
    status = file.stat()
    if status.st_size < MIN_BYTES:
        return None
    return json.dumps([FORMAT, av.__version__, str(file.resolve()), status.st_size, status.st_mtime_ns, track])


def _load(place: Path, file: Path) -> Reading | None:
    """Load an index; None if there is none, or it is damaged, or of other content."""
    try:
        with np.load(place, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            if about["hash"] != file_hash(file):
                return None
            arrays = as_arrays(**{name: stored[name] for name in ARRAYS})
        os.utime(place)  # mark as used now
        values: dict[str, Any] = about["index"]
        values["pixel_aspect"] = Fraction(values["pixel_aspect"])
        values["matrix"] = values["matrix"] and tuple(values["matrix"])
        values["warnings"] = tuple(values["warnings"])
        return FrameIndex(**{**values, **arrays, "path": str(file.absolute())}), about["warnings"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        log.info("%s cannot be read (%s): the packets of %s are read again", place, error, file)
        return None


def _store(place: Path, file: Path, index: FrameIndex, warnings: list[str]) -> None:
    """Write an index in one step, and make room for it."""
    values = {field.name: vars(index)[field.name] for field in fields(index) if field.name not in ARRAYS}
    values["pixel_aspect"] = str(index.pixel_aspect)
    try:
        about = json.dumps({"hash": file_hash(file), "index": values, "warnings": warnings})
        place.parent.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {name: np.asarray(vars(index)[name], dtype=kind) for name, kind in ARRAYS.items()}
        with file_in_one_step(place) as temporary, temporary.open("wb") as output:
            np.savez_compressed(output, about=np.asarray(about), **arrays)
        make_room(place, MAX_BYTES)
    except OSError as error:
        log.info("the frame index of %s is not kept (%s)", file, error)
