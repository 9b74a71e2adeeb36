"""Video files: probe, sample, decode. What is wrong with one is said with its name, the reason and what to do."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from datamodules.decoding import DecodingError, FrameIndex, decoded, read_index, video_stream
from flexselect.frames import FrameStream

log = logging.getLogger(__name__)

SHORT = 0.9  # of the length that a file names: with fewer frames it may have been cut

av.logging.set_level(av.logging.PANIC)  # what it has to say comes as an exception, with the file's name


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
    """What is known of a video before any frame but the first is decoded."""

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
    index, fps = _opened(path)
    with _failing(path, index.times[:1], index):
        (first,) = decoded(index, index.times[:1], lambda frame: frame, 1)
    return VideoInfo(len(index.times), fps, *first.shape[1:3])


def open_video(
    path: str | Path, sample: Callable[[int, float], Sequence[int]], resize: Callable[[Tensor], Tensor]
) -> FrameStream:
    """Choose the frames of a video; they are decoded when the stream is gone through.

    Args:
        path: the file.
        sample: (frames in the file, frames a second) to the indices wanted, ascending.
        resize: uint8 [1, h, w, 3] to the size wanted, uint8.

    Returns:
        The stream: frames uint8 [t, H, W, 3], and the second at which each is shown.

    Raises:
        VideoError: naming the file and the reason; going through the stream may raise it too.
    """
    index, fps = _opened(path)
    wanted = [index.times[i] for i in sample(len(index.times), fps)]
    seconds = torch.tensor(wanted, dtype=torch.float64) * float(index.time_base)

    def read() -> Iterator[Tensor]:
        with _failing(path, wanted, index):
            yield from decoded(index, wanted, resize, _threads())

    return FrameStream(len(wanted), seconds, read)


def read_video(
    path: str | Path, sample: Callable[[int, float], Sequence[int]], resize: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """All frames of `open_video` at once: uint8 [T, H, W, 3], and the second at which each is shown, float64 [T]."""
    stream = open_video(path, sample, resize)
    assert stream.seconds is not None
    return stream.whole(), stream.seconds


def _threads() -> int:
    """Processes that decode ahead share the cores."""
    worker = get_worker_info()
    return max(1, min(8, (os.cpu_count() or 1) // (worker.num_workers if worker else 1)))


def _opened(path: str | Path) -> tuple[FrameIndex, float]:
    """Where the frames of a file are, and how many a second."""
    file = Path(path)
    if not file.exists():
        raise VideoError(path, "no such file; check the path and the folder that it is relative to")
    if file.is_dir():
        raise VideoError(path, "is a folder, not a video file")
    if file.stat().st_size == 0:
        raise VideoError(path, "the file is empty; copy or download it again")
    try:
        with av.open(str(file)) as container:
            stream = video_stream(container)
            if stream is None:
                raise VideoError(path, "has no video stream (audio only?)")
            fps = float(stream.average_rate or 0)
            index = read_index(container) if fps > 0 else None
            promised = (container.duration or 0) / av.time_base
    except av.FFmpegError as error:
        reason = "is not a video, or is cut short before its index; ffprobe says more. Download it again"
        raise VideoError(path, reason) from error
    if index is None or not math.isfinite(fps):
        raise VideoError(path, f"has no usable frame rate ({fps})")
    if not index.times:
        raise VideoError(path, "has no frames")
    last = float(index.times[-1] * index.time_base)
    if last < SHORT * promised - 1:
        log.warning("%s: its last frame is at %.1f of %.1f seconds; is it cut short?", path, last, promised)
    return index, fps


@contextmanager
def _failing(path: str | Path, wanted: Sequence[int], index: FrameIndex) -> Iterator[None]:
    """Say which frames could not be decoded."""
    try:
        yield
    except (av.FFmpegError, DecodingError) as error:
        where = f"frames {index.times.index(wanted[0])} to {index.times.index(wanted[-1])} of {len(index.times)}"
        reason = f"cannot be decoded somewhere in {where} (corrupted or cut short); download it again"
        raise VideoError(path, f"{reason}. The decoder says: {str(error)[:200]}") from error
