"""The video that `FlexSelect.open` takes: a file, a part of a file, or frames in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from flexselect.storage.video_paths import resolve_path
from flexselect.structures.frames import FrameStream, ReadOptions, Sample, stream_of, stream_of_file
from flexselect.validation import checked_frames, checked_seconds


def open_frame_stream(
    video: Any,
    seconds: Tensor | Iterable[float] | None,
    reading: ReadOptions,
    sample: Sample,
    resize: Callable[[Tensor], Tensor],
) -> tuple[FrameStream, Path | Tensor]:
    """Open a stream of a video's frames.

    Args:
        video: path of a file, or frames uint8 [T, h, w, 3], see `checked_frames`.
        seconds: when each frame is shown, float [T]; only with frames. None: unknown.
        reading: which part of a file to read, and how; only the default is allowed with frames.
        sample: sampling rule for a file: (frames in the file, frames per second) -> indices.
        resize: uint8 [t, h, w, 3] -> uint8 [t, H, W, 3].

    Returns:
        The stream, and the absolute path or the frames, from which pictures are drawn later.

    Raises:
        ValueError: if the arguments contradict each other, or the video cannot be read.
    """
    if isinstance(video, str) and not video.strip():
        raise ValueError("the name of the video is empty")
    if isinstance(video, str | Path):
        if seconds is not None:
            raise ValueError("seconds go with frames; a video file already has timestamps")
        return stream_of_file(str(video), sample, resize, reading), resolve_path(video).absolute()
    frames = checked_frames(video)
    if replace(reading, sampling="exact", tolerance=None) != ReadOptions():  # those two are the family's
        raise ValueError("start, end, track, square_pixels and reader are for a video file; pass only the frames")
    times = None if seconds is None else checked_seconds(seconds, len(frames))
    return stream_of(frames, times, resize), frames
