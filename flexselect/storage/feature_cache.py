"""Vision features on disk: a video is decoded and encoded once, however many runs ask about it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from flexselect.storage.encoded_file import read_encoded, write_encoded
from flexselect.storage.file_hash import file_hash
from flexselect.structures.frames import WHOLE, ReadOptions
from flexselect.structures.prompt import EncodedVideo

log = logging.getLogger(__name__)

SUFFIX = ".safetensors"
STALE = 3600  # seconds after which a file that is still being written is not


class FeatureCache:
    """Encoded videos in a folder of bounded size; those that were used last are kept.

    Any number of processes may share it: a file appears whole or not at all, and one that another process has deleted
    meanwhile is a video that is not there.

    Args:
        folder: made when missing; may hold the features of several models.
        max_gb: the most that its files take, in 10^9 bytes.
        settings: all that features depend on beside the video: weights, sampling, dtype, packages.
    """

    def __init__(self, folder: str | Path, max_gb: float, settings: dict[str, Any]) -> None:
        if max_gb <= 0:
            raise ValueError(f"a feature cache needs room: max_gb must be above 0, got {max_gb}")
        self.folder, self.max_bytes = Path(folder), int(max_gb * 1e9)
        self.settings = json.dumps(settings, sort_keys=True, default=str)
        self.folder.mkdir(parents=True, exist_ok=True)

    def get(self, video: str | Path, prefix_ids: Tensor, reading: ReadOptions = WHOLE) -> EncodedVideo | None:
        """A video's features, on the CPU; None if they are not here.

        Args:
            video: its file; another size, time of change or content is another video.
            prefix_ids: the text before it, int64 [A].
            reading: which part of it.
        """
        try:
            file = self._file(Path(video), reading)
            encoded, about, _ = read_encoded(file, prefix_ids)
            if about.get("video_hash") not in (None, file_hash(Path(video))):  # None: of version 0.1
                return None
            os.utime(file)  # used just now
        except FileNotFoundError:
            return None
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            log.warning("the kept features of %s cannot be read (%s): it is encoded again", video, error)
            with suppress(OSError):
                self._file(Path(video), reading).unlink()
            return None
        return encoded

    def put(self, video: str | Path, encoded: EncodedVideo, reading: ReadOptions = WHOLE) -> None:
        """Keep a video's features, and make room for them; a disk that is full is said, and nothing else happens."""
        try:
            file = self._file(Path(video), reading)
            write_encoded(file, encoded, {"video_hash": file_hash(Path(video))})
            self._make_room(file)
        except OSError as error:
            log.warning("the features of %s are not kept (%s)", video, error)

    def _file(self, video: Path, reading: ReadOptions) -> Path:
        """Where a video's features lie."""
        about = video.stat()
        known = f"{self.settings}\0{video.resolve()}\0{about.st_size}\0{about.st_mtime_ns}"
        known += "" if reading == WHOLE else f"\0{reading}"
        return self.folder / (hashlib.sha256(known.encode()).hexdigest()[:32] + SUFFIX)

    def _make_room(self, newest: Path) -> None:
        """Delete what was not used for longest, down to the bound."""
        found = []
        for file in self.folder.glob(f"*{SUFFIX}"):
            try:
                about = file.stat()
            except FileNotFoundError:  # deleted by another process
                continue
            found.append((about.st_mtime_ns, about.st_size, file))
        for left in self.folder.glob("*.tmp"):  # by a process that was killed while it wrote
            with suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > STALE:
                    left.unlink()
        total = sum(size for _, size, _ in found)
        for _, size, file in sorted(found):
            if total <= self.max_bytes:
                return
            if file != newest or size > self.max_bytes:
                file.unlink(missing_ok=True)
                total -= size
