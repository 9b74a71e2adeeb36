"""Vision features on disk: each video is decoded and encoded once for any number of runs."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from flexselect.storage.bounded_folder import make_room
from flexselect.storage.encoded_file import read_encoded, write_encoded
from flexselect.storage.file_hash import file_hash
from flexselect.structures.frames import WHOLE_VIDEO, ReadOptions
from flexselect.structures.prompt import EncodedVideo
from flexselect.structures.readers import DEFAULT_READER

log = logging.getLogger(__name__)

SUFFIX = ".safetensors"


class FeatureCache:
    """Encoded videos in a folder of bounded size; the least recently used ones are deleted.

    Any number of processes may share the folder: a file appears complete or not at all, and a file that another process
    has just deleted counts as missing.

    Args:
        folder: created if missing; it may hold the features of several models.
        max_gb: maximum size of all files together, in 10^9 bytes.
        settings: everything that features depend on except the video: weights, sampling, dtype, packages.
    """

    def __init__(self, folder: str | Path, max_gb: float, settings: dict[str, Any]) -> None:
        if max_gb <= 0:
            raise ValueError(f"a feature cache needs room: max_gb must be above 0, got {max_gb}")
        self.folder, self.max_bytes = Path(folder), int(max_gb * 1e9)
        self.settings = json.dumps(settings, sort_keys=True, default=str)
        self.folder.mkdir(parents=True, exist_ok=True)

    def get(self, video: str | Path, prefix_ids: Tensor, reading: ReadOptions = WHOLE_VIDEO) -> EncodedVideo | None:
        """Return a video's features on the CPU, or None if the cache does not have them.

        Args:
            video: path of the file; a file with another size, modification time or content is another video.
            prefix_ids: text before the video, int64 [A].
            reading: which part of the file was read, and how.
        """
        try:
            file = self._file(Path(video), reading)
            encoded, provenance, _ = read_encoded(file, prefix_ids)
            if provenance.get("video_hash") not in (None, file_hash(Path(video))):  # None: written by version 0.1
                return None
            os.utime(file)  # mark as used now
        except FileNotFoundError:
            return None
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            log.warning("the cached features of %s cannot be read (%s): the video is encoded again", video, error)
            with suppress(OSError):
                self._file(Path(video), reading).unlink()
            return None
        return encoded

    def put(self, video: str | Path, encoded: EncodedVideo, reading: ReadOptions = WHOLE_VIDEO) -> None:
        """Store a video's features, and make room for them; if writing fails, only log a warning."""
        try:
            file = self._file(Path(video), reading)
            write_encoded(file, encoded, {"video_hash": file_hash(Path(video))})
            make_room(file, self.max_bytes)
        except OSError as error:
            log.warning("the features of %s are not kept (%s)", video, error)

    def _file(self, video: Path, reading: ReadOptions) -> Path:
        """Return the path of a video's features."""
        status = video.stat()
        key = f"{self.settings}\0{video.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
        part, reader = replace(reading, reader=DEFAULT_READER), reading.reader
        key += "" if part == WHOLE_VIDEO else f"\0{part}"
        key += "" if reader == DEFAULT_READER else f"\0{reader}"
        return self.folder / (hashlib.sha256(key.encode()).hexdigest()[:32] + SUFFIX)
