"""Frames of a video by their timestamps: from key frame to key frame, in several threads, with bounded memory.

A frame that nobody asked for is decoded only where another one is built on it: of H.264 and HEVC that is about half.
The frames that were asked for are the same to the last bit.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from fractions import Fraction
from itertools import islice
from queue import SimpleQueue
from typing import Any, Protocol

import av
import numpy as np
import torch
from torch import Tensor

from datamodules.video_files.frame_index import FrameIndex
from datamodules.video_files.geometry import picture

LEAST, MOST = 16, 64  # frames decoded by one thread at a time
MISSING = 0.02  # share of the frames asked for that a file may lack; with more it is broken
SKIPPING = ("h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "vp8", "vp9")  # codecs whose decoders were seen to
# leave out just the frames that they are told to, packet by packet; libdav1d (AV1) looks once, when it is opened
SEE_THROUGH = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # decoders of transparent WebM, by codec


class DecodingError(ValueError):
    """Frames are not as the index has them."""


class FrameSource(Protocol):
    """One thread's way through a file, forwards only."""

    def frame(self, time: int) -> np.ndarray | None:
        """The frame shown at a timestamp, later than the last one asked for: uint8 [h, w, 3]; None if it has none."""

    def close(self) -> None:
        """Let go of the file."""


class Decoder:
    """One thread's way through a file, forwards only.

    Two shortcuts make it fast: it seeks to the key frame before what is wanted, and leaves out frames that nobody asked
    for. A file that does not bear one of them is read once more from its start without it.

    Args:
        index: of the file.
        wanted: all timestamps that it may be asked for.
        square_pixels: whether pixels that are not square are stretched to be, as players do.
    """

    def __init__(self, index: FrameIndex, wanted: frozenset[int], square_pixels: bool = True) -> None:
        self.index, self.wanted = index, wanted
        self.pixel_aspect = index.pixel_aspect if square_pixels else Fraction(1)
        self._seeks = index.seekable
        self._skips = index.timed and index.codec in SKIPPING and not index.has_alpha
        self._is_cut = False  # its last packet cannot be decoded
        self._shown: tuple[int, np.ndarray] | None = None  # the last frame that was asked for
        self._ahead: tuple[int, av.VideoFrame] | None = None  # decoded, and later than what was asked for
        self._decoded: Generator[tuple[int, av.VideoFrame], None, None]
        self._context: Any
        self._position: int  # the timestamp of the last frame that was decoded
        self._open()

    def close(self) -> None:
        """Let go of the file, and at once of the frame at work: it has threads, which no process forked later has."""
        self._ahead = None
        self._decoded.close()
        self._container.close()

    def frame(self, time: int) -> np.ndarray | None:
        """The frame shown at a timestamp, later than the last one asked for: uint8 [h, w, 3].

        Returns:
            None if the file has none there, though it has data for one.

        Raises:
            av.FFmpegError: for data that cannot be decoded.
        """
        if self._shown is not None and self._shown[0] == time:
            return self._shown[1]
        while True:
            try:
                found = self._found(time)
            except av.FFmpegError:
                if not self._more_carefully():
                    raise
                continue
            if found is not None:
                self._shown = time, found
            if found is not None or self._is_cut or not self._more_carefully():
                return found

    def _found(self, time: int) -> np.ndarray | None:
        """Seek if that is a short cut; then decode up to the frame."""
        keys = self.index.keys
        key = keys[max(0, bisect_right(keys, time) - 1)]
        if self._seeks and key > self._position:
            self._decoded.close()
            self._container.seek(key, stream=self._stream)
            self._decoded, self._ahead, self._sought = self._decode(), None, True
        while (following := self._ahead or next(self._decoded, None)) is not None:
            shown, frame = following
            self._ahead = following if shown > time else None
            if shown > time:
                return None
            self._position = shown
            if shown == time:
                return picture(frame, self.pixel_aspect, self.index.matrix)
        return None

    def _more_carefully(self) -> bool:
        """Begin anew without one of the shortcuts; False where none is left to do without."""
        if self._sought:
            self._seeks = False
        elif self._skips:
            self._skips = False
        else:
            return False
        self.close()
        self._open()
        return True

    def _open(self) -> None:
        self._container = opened(self.index.path)
        self._stream = self._container.streams.video[self.index.track]
        self._context = self._stream.codec_context
        if self.index.has_alpha:  # FFmpeg's own decoder of VP8 and VP9 does not read it
            self._context = av.CodecContext.create(SEE_THROUGH[self.index.codec], "r")
        self._context.thread_count = 1  # threads of ours cost less than the codec's: see docs/LOG.md
        self._position, self._sought = self.index.times[0], False
        self._decoded = self._decode()
        self._ahead = None

    def _decode(self) -> Generator[tuple[int, av.VideoFrame], None, None]:
        count, broken = 0, None
        for packet in self._container.demux(self._stream):
            if broken is not None and packet.size:
                raise broken  # not the last packet, which a cut leaves half of
            if self._skips and packet.size:
                self._context.skip_frame = "DEFAULT" if packet.pts in self.wanted else "NONREF"
            try:
                frames = self._context.decode(packet)
            except av.FFmpegError as error:
                if not packet.size:
                    raise
                broken, self._is_cut = error, True
                continue
            for frame in frames:
                shown = frame.pts if self.index.timed else count
                count += 1
                if shown is not None:
                    yield shown, frame


def opened(path: str) -> av.container.InputContainer:
    """Open a file, whatever encoding its title and tags have."""
    return av.open(path, metadata_errors="replace")


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
    index: FrameIndex,
    wanted: Sequence[int],
    resize: Callable[[Tensor], Tensor],
    threads: int,
    make: Callable[[FrameIndex, frozenset[int]], FrameSource] = Decoder,
) -> Generator[Tensor, None, int]:
    """Decode in order, some pieces ahead of what was taken; each frame is resized as it comes.

    A frame that the file has no picture for is shown as the one before it, as players do.

    Args:
        index: of the file.
        wanted: timestamps, ascending.
        resize: uint8 [1, h, w, 3] to the size wanted.
        threads: at most so many; one where the file has few key frames.
        make: makes a thread's source of frames.

    Yields:
        A piece at a time, uint8 [t, H, W, 3].

    Returns:
        How many frames had no picture of their own.

    Raises:
        DecodingError: if frames change their size, or too many are missing.
    """
    last: Tensor | None = None  # frame, [1, H, W, 3]
    missing, waiting = list[int](), 0  # waiting: those before the first one that is there
    with closing(_read_ahead(index, wanted, resize, threads, make)) as read:
        for piece, frames in read:
            missing += [time for time, frame in zip(piece, frames) if frame is None]
            if len(missing) > max(1, MISSING * len(wanted)):
                numbers = ", ".join(str(index.times.index(time)) for time in missing[:3])
                raise DecodingError(f"frames {numbers}, ... are not there")
            whole = list[Tensor]()
            for frame in frames:
                last = last if frame is None else frame
                waiting += 1
                if last is not None:
                    whole += [last] * waiting
                    waiting = 0
            if whole:
                yield torch.cat(whole)
    if waiting:
        raise DecodingError("none of its frames is there")
    return len(missing)


def _read_ahead(
    index: FrameIndex,
    wanted: Sequence[int],
    resize: Callable[[Tensor], Tensor],
    threads: int,
    make: Callable[[FrameIndex, frozenset[int]], FrameSource],
) -> Generator[tuple[list[int], list[Tensor | None]], None, None]:
    """Pieces with their frames, in order; threads work on those after it. None stands for a frame that is not there."""
    cut, idle = pieces(index, wanted), SimpleQueue[FrameSource]()
    threads = max(1, min(threads, len({bisect_right(index.keys, piece[0]) for piece in cut})))
    everything, sources, sizes = frozenset(wanted), list[FrameSource](), set[tuple[int, ...]]()

    def run(piece: list[int]) -> list[Tensor | None]:
        source = idle.get()
        try:
            found = (source.frame(time) for time in piece)
            frames = [None if frame is None else resize(torch.from_numpy(frame)[None]) for frame in found]
            sizes.update(tuple(frame.shape[1:3]) for frame in frames if frame is not None)
            if len(sizes) > 1:
                first, other = (f"{width} x {height}" for height, width in list(sizes)[:2])
                raise DecodingError(f"its frames change their size between {first} and {other}")
            return frames
        finally:
            idle.put(source)

    pool = ThreadPoolExecutor(threads, "decoder")
    try:
        for _ in range(threads):
            sources.append(make(index, everything))
            idle.put(sources[-1])
        todo = iter(cut)
        running = deque((piece, pool.submit(run, piece)) for piece in islice(todo, threads + 1))
        while running:
            piece, job = running.popleft()
            frames = job.result()
            running.extend((piece, pool.submit(run, piece)) for piece in islice(todo, 1))
            yield piece, frames
    finally:
        pool.shutdown(cancel_futures=True)
        for source in sources:
            source.close()
