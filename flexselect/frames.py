"""Frames of a video as they come: a few at a time, however long the video is."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points

import torch
from torch import Tensor


@dataclass(frozen=True)
class FrameStream:
    """Sampled and resized frames of one video; it may be gone through more than once."""

    num_frames: int  # T
    seconds: Tensor | None  # float64 [T], when each frame is shown; None if unknown
    read: Callable[[], Iterator[Tensor]]  # begins anew: uint8 [t, h, w, 3] until all T were given

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

    def whole(self) -> Tensor:
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


VideoReader = Callable[  # (path, family.sample, prompter.resize) -> resized frames uint8 [t, h, w, 3] as they come
    [str, Callable[[int, float], Sequence[int]], Callable[[Tensor], Tensor]], FrameStream
]


def video_reader() -> VideoReader:
    """The decoder, found by entry point so that this package depends on none.

    Raises:
        RuntimeError: if none is installed.
    """
    readers = entry_points(group="flexselect.video_readers")
    for reader in readers:
        return reader.load()
    raise RuntimeError("no video reader is installed: run `pip install -e .`, or pass frames to open(frames, seconds)")
