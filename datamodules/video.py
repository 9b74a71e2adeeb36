"""Probe, sample and decode video files. An error names the file, the reason, and what to do."""

from __future__ import annotations

import logging
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

from datamodules.processor_cores import cores
from datamodules.video_files.animated_webp import AnimationFrames, is_animated_webp, read_animation
from datamodules.video_files.decoding import (
    Decoder,
    DecodingError,
    FrameSource,
    ReaderError,
    decode_frames,
    open_container,
)
from datamodules.video_files.facts import facts_of, index_warnings, moves
from datamodules.video_files.frame_index import FrameIndex
from datamodules.video_files.geometry import WITHOUT_TONE_MAPPING
from datamodules.video_files.index_cache import cached_index
from datamodules.video_files.packets import read_index
from datamodules.video_files.truncation import promised_size
from flexselect.storage.video_paths import explain_unreadable, printable_path, resolve_path
from flexselect.structures.frames import WHOLE_VIDEO, FrameStream, ReadOptions, Sample, VideoFacts

log = logging.getLogger(__name__)

MakeSource = Callable[[FrameIndex, frozenset[int], bool], FrameSource]  # (index, wanted, square_pixels), see `Decoder`

MIN_LENGTH_SHARE = 0.9  # of the length in the header; a file with a shorter video track may be cut short

av.logging.set_level(av.logging.PANIC)  # FFmpeg's messages come as exceptions, with the file's name


class VideoError(ValueError):
    """A video that cannot be read.

    Args:
        path: the file.
        reason: what is wrong with it, and what to do.
        warnings: problems that were noticed before the error.
    """

    def __init__(self, path: str | Path, reason: str, warnings: Sequence[str] = ()) -> None:
        super().__init__(f"{printable_path(path)}: {reason}")
        self.path = str(path)
        self.reason = reason
        self.warnings = list(warnings)

    def __reduce__(self) -> tuple:
        """Make the exception picklable, so that a DataLoader worker can return it."""
        return type(self), (self.path, self.reason, self.warnings)


@dataclass(frozen=True)
class VideoInfo:
    """Facts about a video, known after its first frame is decoded."""

    num_frames: int
    fps: float  # by the timestamps; the header's exact value if both agree
    height: int
    width: int
    seconds: float  # length of the video
    index: FrameIndex

    def num_sampled(self, sample: Sample) -> int:
        """Return the number of frames that a sampling rule takes."""
        return len(self.index.choose(sample))


def probe(path: str | Path) -> VideoInfo:
    """Read the facts of a video, and close it again.

    Raises:
        VideoError: naming the file and the reason.
    """
    index, about = read_file(path, WHOLE_VIDEO)
    with _name_failed_frames(path, index.times[:1], index, about.warnings):
        (first,) = _decode(index, index.times[:1], lambda frame: frame, 1, WHOLE_VIDEO)
    height, width = first.shape[1:3]
    return VideoInfo(len(index.times), index.rate, height, width, index.length, index)


def open_video(
    path: str | Path,
    sample: Sample,
    resize: Callable[[Tensor], Tensor],
    options: ReadOptions = WHOLE_VIDEO,
    make_source: MakeSource = Decoder,
    max_threads: int = 8,
) -> FrameStream:
    """Choose the frames of a video; they are decoded when the caller iterates over the stream.

    Args:
        path: the file.
        sample: (frames in the file, frames per second) -> indices of the chosen frames, ascending; see
            `FrameIndex.choose`.
        resize: uint8 [1, h, w, 3] -> uint8 [1, H, W, 3].
        options: which part of the file to read, and how.
        make_source: makes one thread's source of pictures; other libraries than FFmpeg are in `datamodules.readers`.
        max_threads: highest number of threads, each with a source.

    Returns:
        The stream: frames uint8 [t, H, W, 3], and the second at which each frame is shown.

    Raises:
        VideoError: naming the file and the reason; iterating over the stream may raise it too.
    """
    index, about = read_file(path, options)
    if options.start is not None and options.start >= index.length:
        reason = f"has no second {options.start:g}: it is {index.length:.1f} seconds long"
        raise VideoError(path, reason, about.warnings)
    chosen = _choose(index, sample, options, about)
    seconds, opened = torch.tensor([index.seconds[i] for i in chosen], dtype=torch.float64), _state(path)

    def pick(positions: Sequence[int]) -> Iterator[Tensor]:
        if _state(path) != opened:  # frames are read at any time later, for another look
            reason = "was changed or deleted since it was opened: its frames are no longer there; open it again"
            raise VideoError(path, reason, about.warnings)
        wanted = [index.times[chosen[position]] for position in positions]
        with _name_failed_frames(path, wanted, index, about.warnings):
            missing = yield from _decode(index, wanted, resize, min(max_threads, _threads()), options, make_source)
        if missing:
            _add_warning(about, f"{missing} of {len(wanted)} frames have no picture: the frame before is shown instead")

    def decoding(positions: Sequence[int]) -> int:
        return index.costs.decoded([chosen[position] for position in positions])

    skips, everything = make_source is Decoder, range(len(chosen))  # only it leaves out frames that nothing needs
    about.decoded = decoding(everything) if skips else None
    return FrameStream(len(chosen), seconds, lambda: pick(everything), about, pick, decoding if skips else None)


def _state(path: str | Path) -> tuple[int, int] | None:
    """Return what changes with a file's content: its size and the time of the last change; None: it is not there."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _choose(index: FrameIndex, sample: Sample, options: ReadOptions, about: VideoFacts) -> list[int]:
    """Choose frames, or with sampling "near" those nearby that are cheap to decode; write down how far they are."""
    chosen = index.choose(sample, options.start, options.end)
    if options.sampling != "near":
        return chosen
    tolerance = index.half_step(chosen) if options.tolerance is None else options.tolerance
    near = index.choose_near(chosen, tolerance, options.start, options.end)
    about.facts |= {"tolerance": round(tolerance, 3), **moves(index, chosen, near)}
    return near


def read_video(
    path: str | Path, sample: Sample, resize: Callable[[Tensor], Tensor], options: ReadOptions = WHOLE_VIDEO
) -> tuple[Tensor, Tensor]:
    """Read all frames of `open_video` at once.

    Returns:
        Frames uint8 [T, H, W, 3], and the second at which each frame is shown, float64 [T].
    """
    stream = open_video(path, sample, resize, options)
    assert stream.seconds is not None
    return stream.all_frames(), stream.seconds


def read_file(path: str | Path, options: ReadOptions) -> tuple[FrameIndex, VideoFacts]:
    """Read the frame index of a file, and its facts and warnings; each warning is also logged.

    Raises:
        VideoError: naming the file and the reason.
    """
    file = resolve_path(path)
    reason = explain_unreadable(file)
    if reason is not None:
        raise VideoError(path, reason)
    try:
        index, warnings = cached_index(file, options.track, lambda: _read_index(file, options.track))
    except PermissionError as error:
        raise VideoError(path, "may not be read: permission denied") from error
    except (av.FFmpegError, OSError) as error:
        message = error.strerror or type(error).__name__
        reason = f"is not a video, or is cut short before its index ({message}); ffprobe says more. Download it again"
        raise VideoError(path, reason) from error
    except ValueError as error:
        raise VideoError(path, str(error)) from error
    if index is None:
        raise VideoError(path, "has no video stream (audio only?)")
    promised, size = promised_size(file), file.stat().st_size
    if promised is not None and promised > size:
        warnings = [f"is cut short: {size:,} of {promised:,} bytes are there", *warnings]
    about = VideoFacts(facts_of(index, options))
    for warning in (*warnings, *index_warnings(index, options)):
        _add_warning(about, warning)
        _log_once(f"{path}: {warning}")
    return index, about


@cache
def _log_once(message: str) -> None:
    """Log a warning once, because a file is opened a second time for its pictures."""
    log.warning("%s", message)


def _add_warning(about: VideoFacts, warning: str) -> None:
    """Add a warning once, even if the stream is read twice."""
    if warning not in about.warnings:
        about.warnings.append(warning)


def _read_index(file: Path, track: int | None) -> tuple[FrameIndex | None, list[str]]:
    """Read the index of a video file, and the warnings that its container gives reason for."""
    if is_animated_webp(file):
        return read_animation(file), []
    with open_container(str(file.absolute())) as container:  # FFmpeg would take the "12:" of "12:30.mp4" for a protocol
        index = read_index(container, track)
        if index is None:
            return None, []
        length = _promised_length(container, index)
        transfer = container.streams.video[index.track].codec_context.color_trc
    warnings = []
    # some containers count the length from 0, others from the first timestamp
    promised = min([length, length - index.starts_at], key=lambda seconds: seconds if seconds > 0 else length)
    if index.length < MIN_LENGTH_SHARE * promised - 1:
        end = f"its last frame is at {index.seconds[-1]:.1f} of {promised:.1f} seconds"
        warnings.append(f"{end}; is it cut short?")
    if transfer in WITHOUT_TONE_MAPPING:
        warnings.append(f"is HDR ({WITHOUT_TONE_MAPPING[transfer]}): its frames are taken without tone mapping")
    return index, warnings


def _promised_length(container: av.container.InputContainer, index: FrameIndex) -> float:
    """Return the length of a track in seconds by its header, else of the file if it has one track, else 0."""
    stream, whole = container.streams.video[index.track], (container.duration or 0) / av.time_base
    if stream.duration is not None and stream.time_base is not None:
        track = float(stream.duration * stream.time_base)
        return min(track, whole) if track > 0 and whole > 0 else max(track, whole)
    return whole if len(container.streams.video) == 1 else 0.0


def _decode(
    index: FrameIndex,
    wanted: Sequence[int],
    resize: Callable[[Tensor], Tensor],
    threads: int,
    options: ReadOptions,
    make_source: MakeSource = Decoder,
) -> Any:
    """Decode the frames of any file; an animated WebP has one source for every reader. See `decode_frames`."""
    if index.codec == "webp" and len(index.times) > 1:
        return decode_frames(index, wanted, resize, 1, AnimationFrames)
    return decode_frames(
        index, wanted, resize, threads, lambda index, wanted: make_source(index, wanted, options.square_pixels)
    )


def _threads() -> int:
    """Return the number of decoding threads: DataLoader workers share the cores."""
    worker = get_worker_info()
    return max(1, min(8, cores() // (worker.num_workers if worker else 1)))


@contextmanager
def _name_failed_frames(
    path: str | Path, wanted: Sequence[int], index: FrameIndex, warnings: list[str]
) -> Iterator[None]:
    """Turn a decoding error into a `VideoError` that names the frames."""
    try:
        yield
    except ReaderError as error:
        raise VideoError(path, str(error), warnings) from error
    except (av.FFmpegError, DecodingError, OSError) as error:
        frames = f"frames {index.times.index(wanted[0])} to {index.times.index(wanted[-1])} of {len(index.times)}"
        reason = f"cannot be decoded somewhere in {frames} (corrupted or cut short); download it again"
        raise VideoError(path, f"{reason}. The decoder says: {str(error)[:200]}", warnings) from error
