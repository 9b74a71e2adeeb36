"""Vision features on disk: a video is decoded and encoded once, however many runs ask about it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from flexselect.fingerprint import file_hash
from flexselect.frames import WHOLE, ReadOptions, VideoFacts
from flexselect.prompt import EncodedVideo

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


def write_encoded(
    file: Path,
    encoded: EncodedVideo,
    made_with: dict[str, Any] | None = None,
    states: dict[str, Tensor] | None = None,
) -> None:
    """Write a video's features in safetensors, in one step: whole or not at all.

    Args:
        file: that is written.
        encoded: the video.
        made_with: what it was made with.
        states: what was kept of its scoring, by name, see `flexselect.prepared`.
    """
    tensors = {"features": encoded.features, "seen": encoded.seen, "seconds": encoded.seconds, **(states or {})}
    brackets = [[ids.tolist() for ids in around] for around in encoded.brackets]
    about = {
        "grid": encoded.grid,
        "seconds_per_unit": encoded.seconds_per_unit,
        "brackets": brackets,
        "made_with": made_with or {},
        "facts": encoded.about.facts,
        "warnings": encoded.about.warnings,
    }
    write_tensors(file, {name: tensor for name, tensor in tensors.items() if tensor is not None}, about)


def write_tensors(file: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write a safetensors file in one step: whole or not at all.

    Raises:
        OSError: naming the file and the reason.
    """
    if file.is_dir() or not file.parent.is_dir():
        reason = "it is a folder" if file.is_dir() else f"there is no folder {file.parent}"
        raise OSError(f"{file} cannot be written: {reason}")
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        save_file(kept, temporary, {"about": json.dumps(about)})
        temporary.replace(file)
    except (OSError, SafetensorError) as error:
        size = sum(tensor.nbytes for tensor in kept.values()) / 1e6
        raise OSError(
            f"{file} cannot be written ({size:.0f} MB): {error}; free some room, or choose another place"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def read_encoded(file: Path, prefix_ids: Tensor) -> tuple[EncodedVideo, dict[str, Any], dict[str, Tensor]]:
    """Read features again: the video, what it was made with, and what was kept of its scoring.

    Its tensors are parts of the file, mapped into memory: opening it takes no time, and what is used is read.

    Raises:
        FileNotFoundError: no such file.
        SafetensorError, KeyError, ValueError: a file that is broken, or not of such features.
    """
    with safe_open(file, "pt") as stored:
        about = json.loads(stored.metadata()["about"])
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    brackets = tuple((torch.tensor(before), torch.tensor(after)) for before, after in about["brackets"])
    known = tuple(about["grid"]), about["seconds_per_unit"], brackets
    encoded = EncodedVideo(prefix_ids, tensors.pop("features"), *known)
    if len(encoded.features) % encoded.num_units or not torch.is_floating_point(encoded.features):
        raise ValueError("its features do not fit its grid")
    read = VideoFacts(about.get("facts", {}), about.get("warnings", []))  # version 0.1 did not keep them
    whole = replace(encoded, seen=tensors.pop("seen", None), seconds=tensors.pop("seconds", None), about=read)
    return whole, about["made_with"], tensors
