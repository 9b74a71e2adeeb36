"""What `FlexSelect.open` takes as a video: a file or a part of it, or frames that are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from flexselect.storage.video_paths import file_of
from flexselect.structures.frames import FrameStream, ReadOptions, Sample, stream_of, stream_of_file
from flexselect.validation import checked_frames, checked_seconds


def source_of(
    video: Any,
    seconds: Tensor | Sequence[float] | None,
    reading: ReadOptions,
    sample: Sample,
    resize: Callable[[Tensor], Tensor],
) -> tuple[FrameStream, Path | Tensor]:
    """The frames of a video as they come, and where pictures find them again.

    Args:
        video: a file, or frames uint8 [T, h, w, 3].
        seconds: when each frame is shown, float [T]; only with frames.
        reading: which part of a file; nothing else than the default with frames.
        sample: which frames of a file are looked at.
        resize: to the size wanted.

    Raises:
        ValueError: for arguments that do not go together, and whatever is wrong with the video.
    """
    if isinstance(video, str | Path):
        if seconds is not None:
            raise ValueError("seconds are for frames; a video file has its own")
        return stream_of_file(str(video), sample, resize, reading), file_of(video).absolute()
    frames = checked_frames(video)
    if reading != ReadOptions():
        raise ValueError(
            "start, end, track and square_pixels are for a video file; hand over the frames that are meant"
        )
    times = None if seconds is None else checked_seconds(seconds, len(frames))
    return stream_of(frames, times, resize), frames
