"""Frames of a video by their timestamps: from key frame to key frame, in several threads, with bounded memory.

A frame that nobody asked for is decoded only where another one is built on it: of H.264 and HEVC that is about half.
The frames that were asked for are the same to the last bit.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise
from queue import SimpleQueue
from typing import Any

import av
import numpy as np
import torch
from av.stream import Disposition
from torch import Tensor

LEAST, MOST = 16, 64  # frames decoded by one thread at a time


@dataclass(frozen=True)
class FrameIndex:
    """Where the frames of a file are; made by reading it once without decoding."""

    path: str
    times: list[int]  # when each frame is shown, ascending, in `time_base` seconds; 0, 1, 2, ... if not `timed`
    keys: list[int]  # those of key frames: decoding can begin there
    time_base: Fraction
    timed: bool  # whether frames are known by timestamps; else they are counted
    seekable: bool


def video_stream(container: av.container.InputContainer) -> Any:
    """The first video stream that is no cover picture; None where there is none."""
    moving = (stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic)
    return next(moving, None)


def read_index(container: av.container.InputContainer) -> FrameIndex:
    """Look at every packet of the first video stream.

    What stands before the first key frame (a recording that begins in the middle) cannot be decoded and does not count.
    Frames are counted where they cannot be told by their times: in AVI, which has none of its own, and where times are
    missing or begin anew (files that were joined).
    """
    stream, name = video_stream(container), container.format.name
    packets = [(p.pts, p.dts, p.is_keyframe) for p in container.demux(stream) if p.size and not p.is_discard]
    begins = next((i for i, (_, _, is_key) in enumerate(packets) if is_key), 0)
    times, orders, _ = zip(*packets[begins:]) if packets else ((), (), ())
    keys = [pts for pts, _, is_key in packets if is_key and pts is not None]
    known, decoded_at = sorted({t for t in times if t is not None}), [t for t in orders if t is not None]
    in_order = all(earlier <= later for earlier, later in pairwise(decoded_at))
    if "avi" in name or not in_order or len(known) < len(times) or not keys:
        return FrameIndex(container.name, list(range(len(times))), [0], 1 / stream.average_rate, False, False)
    shown = known[bisect_left(known, keys[0]) :]
    seekable = "mp4" in name or "matroska" in name  # others have no index of their own, and land anywhere
    return FrameIndex(container.name, shown, sorted(keys), stream.time_base, True, seekable)


class DecodingError(ValueError):
    """Frames are not as the index has them."""


class Decoder:
    """One thread's way through a file, forwards only.

    Args:
        index: of the file.
        wanted: all timestamps that it may be asked for.
    """

    def __init__(self, index: FrameIndex, wanted: frozenset[int]) -> None:
        self.index, self.wanted = index, wanted
        self._shown: tuple[int, np.ndarray] | None = None  # the last frame that was asked for
        self._open()

    def close(self) -> None:
        """Let go of the file, and at once of the frame at work: it has threads, which no process forked later has."""
        self._decoded.close()
        self._container.close()

    def frame(self, time: int) -> np.ndarray:
        """The frame shown at a timestamp, later than the last one asked for: uint8 [h, w, 3].

        Raises:
            DecodingError: if there is none, though the index has one.
            av.FFmpegError: for data that cannot be decoded.
        """
        if self._shown is not None and self._shown[0] == time:
            return self._shown[1]
        keys = self.index.keys
        key = keys[max(0, bisect_right(keys, time) - 1)] if keys else 0
        sought = self.index.seekable and key > (self._shown[0] if self._shown else self.index.times[0])
        if sought:
            self._decoded.close()
            self._container.seek(key, stream=self._stream)
            self._decoded = self._decode()
        found = self._next(time)
        if found is None and sought:  # it landed too far: some files are not as their own index says
            self.close()
            self._open()
            found = self._next(time)
        if found is None:
            raise DecodingError(f"frame {self.index.times.index(time)} is not there")
        self._shown = time, found
        return found

    def _open(self) -> None:
        self._container = av.open(self.index.path)
        self._stream = video_stream(self._container)
        self._stream.codec_context.thread_count = 1  # threads of ours cost less than the codec's: see docs/LOG.md
        self._decoded = self._decode()

    def _next(self, time: int) -> np.ndarray | None:
        """The frame at a timestamp, upright; None if later ones come first."""
        for shown, frame in self._decoded:
            if shown == time:
                return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4))
            if shown > time:
                return None
        return None

    def _decode(self) -> Generator[tuple[int, av.VideoFrame], None, None]:
        context, count = self._stream.codec_context, 0
        for packet in self._container.demux(self._stream):
            if self.index.timed and packet.size:
                context.skip_frame = "DEFAULT" if packet.pts in self.wanted else "NONREF"
            for frame in context.decode(packet):
                shown = frame.pts if self.index.timed else count
                count += 1
                if shown is not None:
                    yield shown, frame


def pieces(index: FrameIndex, wanted: Sequence[int]) -> list[list[int]]:
    """Cut what is wanted into what one thread decodes at a time, between key frames where they are near enough.

    Args:
        index: of the file.
        wanted: timestamps, ascending.
    """
    cut: list[list[int]] = [[]]
    for time in wanted:
        last = cut[-1]
        new_key = bool(last) and bisect_right(index.keys, time) > bisect_right(index.keys, last[-1])
        if len(last) >= MOST or (len(last) >= LEAST and new_key):
            cut.append([])
        cut[-1].append(time)
    return cut


def decoded(
    index: FrameIndex, wanted: Sequence[int], resize: Callable[[Tensor], Tensor], threads: int
) -> Iterator[Tensor]:
    """Decode in order, some pieces ahead of what was taken; each frame is resized as it comes.

    Args:
        index: of the file.
        wanted: timestamps, ascending.
        resize: uint8 [1, h, w, 3] to the size wanted.
        threads: at most so many; one where the file has few key frames.

    Yields:
        A piece at a time, uint8 [t, H, W, 3].
    """
    cut, idle = pieces(index, wanted), SimpleQueue[Decoder]()
    keys = {bisect_right(index.keys, piece[0]) for piece in cut}
    threads = max(1, min(threads, len(keys)))
    everything, decoders, sizes = frozenset(wanted), list[Decoder](), set[tuple[int, ...]]()

    def run(piece: list[int]) -> Tensor:
        decoder = idle.get()
        try:
            frames = [resize(torch.from_numpy(decoder.frame(time))[None]) for time in piece]
            sizes.update(tuple(frame.shape[1:3]) for frame in frames)
            if len(sizes) > 1:
                first, other = (f"{width} x {height}" for height, width in list(sizes)[:2])
                raise DecodingError(f"its frames change their size between {first} and {other}")
            return torch.cat(frames)
        finally:
            idle.put(decoder)

    pool = ThreadPoolExecutor(threads, "decoder")
    try:
        for _ in range(threads):
            decoders.append(Decoder(index, everything))
            idle.put(decoders[-1])
        todo = iter(cut)
        running = deque(pool.submit(run, piece) for piece in islice(todo, threads + 1))
        while running:
            frames = running.popleft().result()
            running.extend(pool.submit(run, piece) for piece in islice(todo, 1))
            yield frames
    finally:
        pool.shutdown(cancel_futures=True)
        for decoder in decoders:
            decoder.close()
