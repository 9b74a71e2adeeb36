"""Video files: probe, sample, decode. The only file that opens one."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import decord
import torch
from torch import Tensor

decord.logging.set_level(decord.logging.QUIET)  # what it has to say comes as an exception, with the file's name

CHUNK_BYTES = 64 * 2**20  # frames at native resolution in memory at a time: about 10 of 1080p


class VideoError(ValueError):
    """A video that cannot be read.

    Args:
        path: the file.
        reason: what is wrong with it, and what to do.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple:
        """Survive the way back from a DataLoader worker."""
        return type(self), (self.path, self.reason)


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video before any frame is decoded."""

    num_frames: int
    fps: float
    height: int
    width: int

    @property
    def seconds(self) -> float:
        """Length."""
        return self.num_frames / self.fps


def probe(path: str | Path) -> VideoInfo:
    """Look at a video without keeping it open.

    Raises:
        VideoError: naming the file and the reason.
    """
    return _probe(path, _open(path))


def read_video(
    path: str | Path,
    sample: Callable[[int, float], Sequence[int]],
    resize: Callable[[Tensor], Tensor],
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Tensor, Tensor]:
    """Decode the sampled frames, chunk by chunk, each resized as it comes.

    Args:
        path: the file.
        sample: (frames in the file, frames a second) to the indices wanted, ascending.
        resize: uint8 [t, h, w, 3] to the size wanted, uint8.
        chunk_bytes: how much is held at native resolution.

    Returns:
        Frames uint8 [T, H, W, 3], and the second at which each is shown, float64 [T].

    Raises:
        VideoError: naming the file and the reason.
    """
    reader = _open(path)
    info = _probe(path, reader)
    indices = list(sample(info.num_frames, info.fps))
    per_chunk = max(1, chunk_bytes // (info.height * info.width * 3))
    chunks = [resize(frames) for frames in _decode(path, reader, indices, per_chunk)]
    seconds = torch.from_numpy(reader.get_frame_timestamp(indices)[:, 0]).double()
    if not bool((seconds.diff() >= 0).all()):
        raise VideoError(path, "its frames are not in the order of their timestamps; re-encode it with ffmpeg")
    return torch.cat(chunks), seconds


def _open(path: str | Path) -> decord.VideoReader:
    file = Path(path)
    if not file.exists():
        raise VideoError(path, "no such file; check the path and the folder that it is relative to")
    if file.is_dir():
        raise VideoError(path, "is a folder, not a video file")
    if file.stat().st_size == 0:
        raise VideoError(path, "the file is empty; copy or download it again")
    try:
        return decord.VideoReader(str(file))
    except (RuntimeError, decord.DECORDError) as error:
        if "cannot find video stream" in str(error):
            raise VideoError(path, "has no video stream (audio only?)") from error
        reason = "is not a video, or is cut short before its index; ffprobe says more. Download it again"
        raise VideoError(path, reason) from error


def _probe(path: str | Path, reader: decord.VideoReader) -> VideoInfo:
    num_frames, fps = len(reader), float(reader.get_avg_fps())
    if num_frames == 0:
        raise VideoError(path, "has no frames")
    if not (math.isfinite(fps) and fps > 0):
        raise VideoError(path, f"has no usable frame rate ({fps})")
    try:
        height, width = reader[0].shape[:2]
    except (RuntimeError, decord.DECORDError) as error:
        raise _broken(path, 0, 0, num_frames, error) from error
    return VideoInfo(num_frames, fps, height, width)


def _decode(path: str | Path, reader: decord.VideoReader, indices: Sequence[int], per_chunk: int) -> Iterator[Tensor]:
    for first in range(0, len(indices), per_chunk):
        wanted = list(indices[first : first + per_chunk])
        try:
            yield torch.from_numpy(reader.get_batch(wanted).asnumpy())
        except (RuntimeError, decord.DECORDError) as error:
            raise _broken(path, wanted[0], wanted[-1], len(reader), error) from error


def _broken(path: str | Path, first: int, last: int, num_frames: int, error: Exception) -> VideoError:
    where = f"frames {first} to {last} of {num_frames}"
    reason = f"cannot be decoded somewhere in {where} (corrupted or cut short); download it again"
    last_line = re.sub(r"\S+\.cc:\d+: ", "", str(error).strip().splitlines()[-1].split("] ")[-1])
    return VideoError(path, f"{reason}. The decoder says: {last_line[:200]}")
