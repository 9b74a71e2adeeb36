"""Frames of a video as they come: a few at a time, however long the video is."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ReadOptions:
    """Which part of a video file is looked at, and how.

    Raises:
        ValueError: for a part without length, or a track below 0.
    """

    start: float | None = None  # seconds of the video; None: from its beginning
    end: float | None = None  # None: to its end
    track: int | None = None  # among its video tracks, from 0; None: the one that players show
    square_pixels: bool = True  # stretch pixels that are not square, as players do; decord does not

    def __post_init__(self) -> None:
        start, end = self.start or 0.0, self.end
        if not start >= 0 or (end is not None and not end > start):
            raise ValueError(f"a part of a video needs 0 <= start < end in seconds, got start {self.start}, end {end}")
        if self.track is not None and self.track < 0:
            raise ValueError(f"track must be at least 0, got {self.track}")

    @property
    def settings(self) -> dict[str, Any]:
        """What is not the default, the part aside: it decides what is seen of every video."""
        track = {} if self.track is None else {"track": self.track}
        return track if self.square_pixels else {**track, "square_pixels": False}


WHOLE = ReadOptions()


@dataclass
class VideoFacts:
    """What is known of how a file was read; complete once its frames were gone through."""

    facts: dict[str, Any] = field(default_factory=dict)  # plain values: how frames were chosen, length, start, track
    warnings: list[str] = field(default_factory=list)  # what is doubtful, in words


@dataclass(frozen=True)
class FrameStream:
    """Sampled and resized frames of one video; it may be gone through more than once."""

    num_frames: int  # T
    seconds: Tensor | None  # float64 [T], when each frame is shown; None if unknown
    read: Callable[[], Iterator[Tensor]]  # begins anew: uint8 [t, h, w, 3] until all T were given
    about: VideoFacts = field(default_factory=VideoFacts)
    pick: Callable[[Sequence[int]], Iterator[Tensor]] | None = None  # those of some places alone; None: all are read

    def frames_at(self, places: Sequence[int]) -> Iterator[Tensor]:
        """The frames of some places among the T, ascending: uint8 [t, h, w, 3], some at a time."""
        if self.pick is not None:
            yield from self.pick(places)
            return
        wanted, first = set(places), 0
        for frames in self.read():
            here = [i for i in range(len(frames)) if first + i in wanted]
            first += len(frames)
            if here:
                yield frames[here]

    def steps(self, size: int) -> Generator[Tensor, None, None]:
        """The same frames, exactly `size` at a time; fewer in the last step."""
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
        """All frames at once: uint8 [T, h, w, 3]."""
        result, first = torch.empty(0), 0
        for frames in self.read():
            if first == 0:
                result = frames.new_empty(self.num_frames, *frames.shape[1:])
            result[first : first + len(frames)] = frames
            first += len(frames)
        return result


def stream_of(frames: Tensor, seconds: Tensor | None, resize: Callable[[Tensor], Tensor]) -> FrameStream:
    """Frames that are there, uint8 [T, h, w, 3], resized when they are asked for."""
    return FrameStream(len(frames), seconds, lambda: (resize(some) for some in frames.split(16)))


Sample = Callable[[int, float], Sequence[int]]  # (frames in the file, frames a second) -> indices, ascending


# Opens a video file, what the entry points of the group `flexselect.video_readers` are: path, `family.sample`,
# `prompter.resize`, and, where they are not the default, `ReadOptions`.
VideoReader = Callable[..., FrameStream]


def video_reader() -> VideoReader:
    """The decoder, found by entry point so that this package depends on none.

    Raises:
        RuntimeError: if none is installed.
    """
    readers = entry_points(group="flexselect.video_readers")
    for reader in readers:
        return reader.load()
    raise RuntimeError("no video reader is installed: run `pip install -e .`, or pass frames to open(frames, seconds)")


def stream_of_file(
    path: str, sample: Sample, resize: Callable[[Tensor], Tensor], options: ReadOptions = WHOLE
) -> FrameStream:
    """Choose the frames of a video file.

    Args:
        path: of the file.
        sample: (frames in the file, frames a second) to the indices wanted, ascending.
        resize: uint8 [1, h, w, 3] to the size wanted.
        options: which part of the file.

    Raises:
        ValueError: what the reader says of a file that it cannot read.
    """
    return video_reader()(path, sample, resize, *([] if options == WHOLE else [options]))
