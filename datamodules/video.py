"""Video files: probe, sample, decode. What is wrong with one is said with its name, the reason and what to do."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import av
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from datamodules.video_files.animated_webp import AnimationFrames, is_animated_webp, read_animation
from datamodules.video_files.decoding import Decoder, DecodingError, decoded, opened
from datamodules.video_files.frame_index import FrameIndex, read_index
from datamodules.video_files.geometry import WITHOUT_TONE_MAPPING
from datamodules.video_files.truncation import promised_size
from flexselect.storage.video_paths import file_of, readable, refusal
from flexselect.structures.frames import WHOLE, FrameStream, ReadOptions, Sample, VideoFacts

log = logging.getLogger(__name__)

OFF = 0.9  # a header's frame rate that is further from the timestamps' is told
SHORT = 0.9  # of the length that a file names: with fewer frames it may have been cut

av.logging.set_level(av.logging.PANIC)  # what it has to say comes as an exception, with the file's name


class VideoError(ValueError):
    """A video that cannot be read.

    Args:
        path: the file.
        reason: what is wrong with it, and what to do.
        warnings: what was doubtful about it before that.
    """

    def __init__(self, path: str | Path, reason: str, warnings: Sequence[str] = ()) -> None:
        super().__init__(f"{readable(path)}: {reason}")
        self.path = str(path)
        self.reason = reason
        self.warnings = list(warnings)

    def __reduce__(self) -> tuple:
        """Survive the way back from a DataLoader worker."""
        return type(self), (self.path, self.reason, self.warnings)


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video before any frame but the first is decoded."""

    num_frames: int
    fps: float  # by the timestamps
    height: int
    width: int
    seconds: float  # length
    index: FrameIndex

    def num_sampled(self, sample: Sample) -> int:
        """How many frames a rule takes of it."""
        return len(self.index.choose(sample))


def probe(path: str | Path) -> VideoInfo:
    """Look at a video without keeping it open.

    Raises:
        VideoError: naming the file and the reason.
    """
    index, about = read_file(path, WHOLE)
    with _failing(path, index.times[:1], index, about.warnings):
        (first,) = _frames(index, index.times[:1], lambda frame: frame, 1, WHOLE)
    height, width = first.shape[1:3]
    return VideoInfo(len(index.times), index.rate, height, width, index.length, index)


def open_video(
    path: str | Path, sample: Sample, resize: Callable[[Tensor], Tensor], options: ReadOptions = WHOLE
) -> FrameStream:
    """Choose the frames of a video; they are decoded when the stream is gone through.

    Args:
        path: the file.
        sample: (frames in the file, frames a second) to the indices wanted, ascending; see `FrameIndex.choose`.
        resize: uint8 [1, h, w, 3] to the size wanted, uint8.
        options: which part of the file.

    Returns:
        The stream: frames uint8 [t, H, W, 3], and the second at which each is shown.

    Raises:
        VideoError: naming the file and the reason; going through the stream may raise it too.
    """
    index, about = read_file(path, options)
    if options.start is not None and options.start >= index.length:
        reason = f"has no second {options.start:g}: it is {index.length:.1f} seconds long"
        raise VideoError(path, reason, about.warnings)
    chosen = index.choose(sample, options.start, options.end)
    seconds = torch.tensor([index.seconds[i] for i in chosen], dtype=torch.float64)

    def pick(places: Sequence[int]) -> Iterator[Tensor]:
        wanted = [index.times[chosen[place]] for place in places]
        with _failing(path, wanted, index, about.warnings):
            missing = yield from _frames(index, wanted, resize, _threads(), options)
        if missing:
            _note(about, f"{missing} of {len(wanted)} frames have no picture of their own: the one before is shown")

    return FrameStream(len(chosen), seconds, lambda: pick(range(len(chosen))), about, pick)


def read_video(
    path: str | Path, sample: Sample, resize: Callable[[Tensor], Tensor], options: ReadOptions = WHOLE
) -> tuple[Tensor, Tensor]:
    """All frames of `open_video` at once: uint8 [T, H, W, 3], and the second at which each is shown, float64 [T]."""
    stream = open_video(path, sample, resize, options)
    assert stream.seconds is not None
    return stream.all_frames(), stream.seconds


def read_file(path: str | Path, options: ReadOptions) -> tuple[FrameIndex, VideoFacts]:
    """Where the frames of a file are, and what is to be said of it; what is doubtful is also logged.

    Raises:
        VideoError: naming the file and the reason.
    """
    file = file_of(path)
    reason = refusal(file)
    if reason is not None:
        raise VideoError(path, reason)
    try:
        index, warnings = _animation(file) if is_animated_webp(file) else _video(file, options.track)
    except PermissionError as error:
        raise VideoError(path, "may not be read: permission denied") from error
    except (av.FFmpegError, OSError) as error:
        says = error.strerror or type(error).__name__
        reason = f"is not a video, or is cut short before its index ({says}); ffprobe says more. Download it again"
        raise VideoError(path, reason) from error
    except ValueError as error:
        raise VideoError(path, str(error)) from error
    if index is None:
        raise VideoError(path, "has no video stream (audio only?)")
    promised, there = promised_size(file), file.stat().st_size
    if promised is not None and promised > there:
        warnings = [f"is cut short: {there:,} of {promised:,} bytes are there", *warnings]
    about = VideoFacts(_facts(index, options))
    for warning in (*warnings, *_doubts(index, options)):
        _note(about, warning)
        _say_once(f"{path}: {warning}")
    return index, about


@cache
def _say_once(message: str) -> None:
    """A file is opened again for its pictures."""
    log.warning("%s", message)


def _note(about: VideoFacts, warning: str) -> None:
    """A stream that is gone through twice says things once."""
    if warning not in about.warnings:
        about.warnings.append(warning)


def _animation(file: Path) -> tuple[FrameIndex, list[str]]:
    return read_animation(file), []


def _video(file: Path, track: int | None) -> tuple[FrameIndex | None, list[str]]:
    """The index, and what its container makes doubtful."""
    with opened(str(file.absolute())) as container:  # "12:30.mp4" alone would be a protocol to FFmpeg
        index = read_index(container, track)
        if index is None:
            return None, []
        length = _promised_length(container, index)
        transfer = container.streams.video[index.track].codec_context.color_trc
    warnings = []
    promised = min([length, length - index.starts_at], key=lambda seconds: seconds if seconds > 0 else length)
    if index.length < SHORT * promised - 1:  # some containers count from 0, others from where they start
        said = f"its last frame is at {index.seconds[-1]:.1f} of {promised:.1f} seconds"
        warnings.append(f"{said}; is it cut short?")
    if transfer in WITHOUT_TONE_MAPPING:
        warnings.append(f"is HDR ({WITHOUT_TONE_MAPPING[transfer]}): its frames are taken without tone mapping")
    return index, warnings


def _promised_length(container: av.container.InputContainer, index: FrameIndex) -> float:
    """Seconds of a track by its header; by the whole file's, where that says nothing of tracks and there is one."""
    stream, whole = container.streams.video[index.track], (container.duration or 0) / av.time_base
    if stream.duration is not None and stream.time_base is not None:
        own = float(stream.duration * stream.time_base)
        return min(own, whole) if own > 0 and whole > 0 else max(own, whole)
    return whole if len(container.streams.video) == 1 else 0.0


def _doubts(index: FrameIndex, options: ReadOptions) -> Iterator[str]:
    """What the index makes doubtful."""
    yield from index.warnings
    if len(index.times) == 1:
        yield "shows a single picture: it is no moving video"
    if index.timed and index.header_rate and not OFF < index.header_rate / index.true_rate < 1 / OFF:
        said = f"its header says {index.header_rate:.3g} frames a second, its timestamps {index.true_rate:.3g}"
        yield f"{said}: frames are chosen by the timestamps"
    if index.tracks > 1 and options.track is None:
        yield f"has {index.tracks} moving video tracks, track {index.track} is looked at; --data.track N takes another"
    if options.end is not None and options.end > index.length + 1:
        yield f"ends at {index.length:.1f} seconds, before the second {options.end:g} that was asked for"


def _facts(index: FrameIndex, options: ReadOptions) -> dict[str, Any]:
    """How frames are chosen, for the record."""
    rule = "constant rate" if index.is_steady else "variable rate"
    facts: dict[str, Any] = {"rule": rule, "file_fps": round(index.rate, 3), "seconds": round(index.length, 3)}
    if abs(index.starts_at) > 1:
        facts["starts_at"] = round(index.starts_at, 3)
    part = {name: value for name, value in (("start", options.start), ("end", options.end)) if value is not None}
    return facts | part | ({"track": index.track} if index.track else {}) | options.settings


def _frames(
    index: FrameIndex, wanted: Sequence[int], resize: Callable[[Tensor], Tensor], threads: int, options: ReadOptions
) -> Any:
    """See `decoded`."""
    if index.codec == "webp" and len(index.times) > 1:
        return decoded(index, wanted, resize, 1, AnimationFrames)
    make = lambda index, wanted: Decoder(index, wanted, options.square_pixels)  # noqa: E731
    return decoded(index, wanted, resize, threads, make)


def _threads() -> int:
    """Processes that decode ahead share the cores."""
    worker = get_worker_info()
    return max(1, min(8, (os.cpu_count() or 1) // (worker.num_workers if worker else 1)))


@contextmanager
def _failing(path: str | Path, wanted: Sequence[int], index: FrameIndex, warnings: list[str]) -> Iterator[None]:
    """Say which frames could not be decoded."""
    try:
        yield
    except (av.FFmpegError, DecodingError, OSError) as error:
        where = f"frames {index.times.index(wanted[0])} to {index.times.index(wanted[-1])} of {len(index.times)}"
        reason = f"cannot be decoded somewhere in {where} (corrupted or cut short); download it again"
        raise VideoError(path, f"{reason}. The decoder says: {str(error)[:200]}", warnings) from error
