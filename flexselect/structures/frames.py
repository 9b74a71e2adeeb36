"""Frames of a video as a stream: a few at a time, for videos of any length."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from flexselect.structures.readers import DEFAULT_READER, load_reader
from flexselect.structures.times import checked_time, either

SAMPLINGS = ("exact", "near")  # see `ReadOptions.sampling`
TOGETHER = 16  # frames in memory that are resized at a time


@dataclass(frozen=True)
class ReadOptions:
    """Which part of a video file is read, and how.

    Raises:
        ValueError: if the part has no length, the track is below 0, the reader is unknown or cannot be loaded, or
            `sampling` and `tolerance` do not fit.
    """

    start: float | None = None  # seconds; None: the beginning of the video
    end: float | None = None  # seconds; None: the end of the video
    track: int | None = None  # number among the video tracks, from 0; None: the one that players show
    square_pixels: bool = True  # stretch pixels that are not square, as players do; decord does not
    # Name of the reader that decodes. It is not in `repr`, so that the features that version 0.1 cached are found.
    reader: str = field(default=DEFAULT_READER, repr=False)
    # The family sets these two, and its settings record them; so they are not in the text that keys of caches have.
    sampling: str = field(default="exact", repr=False)  # or "near": the cheapest frame near each wanted one
    tolerance: float | None = field(default=None, repr=False)  # seconds; None: half the distance of wanted frames

    def __post_init__(self) -> None:
        start, end = self.start or 0.0, self.end
        if not start >= 0 or (end is not None and not end > start):
            raise ValueError(f"a part of a video needs 0 <= start < end in seconds, got start {self.start}, end {end}")
        if self.track is not None and self.track < 0:
            raise ValueError(f"track must be at least 0, got {self.track}")
        if self.reader != DEFAULT_READER:
            load_reader(self.reader)  # refused now, not at the first video
        if self.sampling not in SAMPLINGS:
            raise ValueError(f"sampling must be one of {', '.join(SAMPLINGS)}, got {self.sampling!r}")
        if self.tolerance is None:
            return
        if not isinstance(self.tolerance, int | float) or not self.tolerance >= 0:
            raise ValueError(f"tolerance must be a number of seconds, at least 0, got {self.tolerance!r}")
        if self.sampling == "exact":
            raise ValueError(f'a tolerance needs sampling "near": got tolerance {self.tolerance:g} with "exact"')

    @classmethod
    def of(cls, start: Any, end: Any, video_start: Any = None, video_end: Any = None, **more: Any) -> ReadOptions:
        """Make options from times as people write them, see `checked_time`, under either of their names."""
        start = either("start", start, "video_start", video_start)
        end = either("end", end, "video_end", video_end)
        return cls(checked_time("start", start), checked_time("end", end), **more)

    @property
    def settings(self) -> dict[str, Any]:
        """Options that differ from the default and apply to every video of a run: all but `start` and `end`."""
        names = ("track", "square_pixels", "reader")
        values = {name: (vars(self)[name], vars(WHOLE_VIDEO)[name]) for name in names}
        return {name: value for name, (value, default) in values.items() if value != default}


WHOLE_VIDEO = ReadOptions()


def end_of(facts: Mapping[str, Any]) -> float | None:
    """Return where the part of a file ends that was read, in seconds, from its `VideoFacts`; None: unknown."""
    return min((facts[name] for name in ("seconds", "end") if facts.get(name) is not None), default=None)


@dataclass
class VideoFacts:
    """Facts and warnings about how a file was read; complete once all frames are decoded."""

    facts: dict[str, Any] = field(default_factory=dict)  # plain values: how frames were chosen, length, start, track
    warnings: list[str] = field(default_factory=list)  # sentences about what is doubtful in the file
    decoded: int | None = None  # frames that decoding takes, by the index of the file; None: unknown


@dataclass(frozen=True)
class FrameStream:
    """Sampled and resized frames of one video; it can be iterated several times."""

    num_frames: int  # T
    seconds: Tensor | None  # float64 [T], when each frame is shown; None if unknown
    read: Callable[[], Iterator[Tensor]]  # starts from the first frame: uint8 [t, h, w, 3], T frames in all
    about: VideoFacts = field(default_factory=VideoFacts)
    pick: Callable[[Sequence[int]], Iterator[Tensor]] | None = None  # reads some frames only; None: all are read
    decoding: Callable[[Sequence[int]], int] | None = None  # how many frames are decoded to show some; None: unknown

    def frames_at(self, indices: Sequence[int]) -> Iterator[Tensor]:
        """Yield the frames with some indices below T, ascending: uint8 [t, h, w, 3], a few at a time."""
        if self.pick is not None:
            yield from self.pick(indices)
            return
        wanted, first = set(indices), 0
        for frames in self.read():
            matches = [i for i in range(len(frames)) if first + i in wanted]
            first += len(frames)
            if matches:
                yield frames[matches]

    def steps(self, size: int) -> Generator[Tensor, None, None]:
        """Yield all frames, exactly `size` at a time; the last step may have fewer."""
        waiting: list[Tensor] = []
        count = 0
        for frames in self.read():
            while count + len(frames) >= size:
                taken = size - count
                yield torch.cat([*waiting, frames[:taken]])
                waiting, count, frames = [], 0, frames[taken:]
            if len(frames):
                waiting.append(frames)
                count += len(frames)
        if waiting:
            yield torch.cat(waiting)

    def all_frames(self) -> Tensor:
        """Return all frames at once: uint8 [T, h, w, 3]."""
        result, first = torch.empty(0), 0
        for frames in self.read():
            if first == 0:
                result = frames.new_empty(self.num_frames, *frames.shape[1:])
            result[first : first + len(frames)] = frames
            first += len(frames)
        return result


def stream_of(frames: Tensor, seconds: Tensor | None, resize: Callable[[Tensor], Tensor]) -> FrameStream:
    """Make a stream of decoded frames, uint8 [T, h, w, 3]; they are resized when they are read."""

    def pick(indices: Sequence[int]) -> Iterator[Tensor]:
        for first in range(0, len(indices), TOGETHER):
            yield resize(frames[list(indices[first : first + TOGETHER])])

    return FrameStream(len(frames), seconds, lambda: (resize(part) for part in frames.split(TOGETHER)), pick=pick)


Sample = Callable[[int, float], Sequence[int]]  # (frames in the file, frames per second) -> indices, ascending


def stream_of_file(
    path: str, sample: Sample, resize: Callable[[Tensor], Tensor], options: ReadOptions = WHOLE_VIDEO
) -> FrameStream:
    """Open a video file as a stream of sampled frames, with the reader that the options name.

    A reader is an entry point of the group `flexselect.video_readers`, which is called with the first three arguments,
    and with the options if any but its own name differs from the default.

    Args:
        path: the file.
        sample: maps (frames in the file, frames per second) to the indices of wanted frames, ascending.
        resize: resizes uint8 [1, h, w, 3].
        options: the part of the file to read, and the reader.

    Raises:
        ValueError: if the reader cannot read the file.
    """
    is_plain = replace(options, reader=DEFAULT_READER) == WHOLE_VIDEO
    return load_reader(options.reader)(path, sample, resize, *([] if is_plain else [options]))
