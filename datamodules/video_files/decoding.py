"""Decode the frames at given timestamps: from key frame to key frame, in several threads, with bounded memory.

A frame that is not wanted is decoded only if another frame is built on it: about half of the frames of H.264 and HEVC.
Nothing is decoded after the last wanted frame before a key frame. The wanted frames are the same to the last bit.
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
from datamodules.video_files.geometry import to_picture

MIN_PIECE, MAX_PIECE = 16, 64  # frames that one thread decodes at a time
MAX_MISSING = 0.02  # share of the wanted frames that may be missing; a file with more missing frames is broken
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # codec -> decoder that reads the transparency of a WebM


class DecodingError(ValueError):
    """Decoded frames that contradict the frame index."""


class ReaderError(ValueError):
    """A file that the default reader may read, but not the reader that was asked for."""


class FrameSource(Protocol):
    """One thread's reader of a file, forwards only."""

    def frame(self, time: int) -> np.ndarray | Tensor | None:
        """Return the frame at a timestamp, uint8 [h, w, 3], or None if it is missing; timestamps only increase."""

    def close(self) -> None:
        """Close the file."""


class Decoder:
    """One thread's reader of a file, forwards only.

    Two shortcuts make it fast: it seeks to the key frame before a wanted frame, and it skips other frames.
    If a shortcut loses a frame or fails, the decoder reads the file again from its beginning without that shortcut.

    Args:
        index: frame index of the file.
        wanted: all timestamps that `frame` may be called with.
        square_pixels: whether to stretch pixels that are not square, as players do.
    """

    def __init__(self, index: FrameIndex, wanted: frozenset[int], square_pixels: bool = True) -> None:
        self.index, self.wanted = index, wanted
        self.pixel_aspect = index.pixel_aspect if square_pixels else Fraction(1)
        self._seeks = index.seekable
        self._skips = index.can_skip
        self._ends = index.last_decoded(wanted)  # the decoder is emptied after these, instead of fed further packets
        self._is_cut = False  # True if the last packet cannot be decoded
        self._last: tuple[int, np.ndarray] | None = None  # timestamp and picture that `frame` returned last
        self._ahead: tuple[int, av.VideoFrame] | None = None  # a decoded frame that is later than the wanted one
        self._decoded: Generator[tuple[int, av.VideoFrame], None, None]
        self._context: Any
        self._position: int  # timestamp of the last decoded frame
        self._began: int  # timestamp of the frame that decoding began at; frames before it come out of other key frames
        self._open()

    def close(self) -> None:
        """Close the file, and free the current frame at once: it holds threads that a forked process would lack."""
        self._ahead = None
        self._decoded.close()
        self._container.close()

    def frame(self, time: int) -> np.ndarray | None:
        """Return the frame shown at a timestamp, uint8 [h, w, 3]; timestamps only increase from call to call.

        Returns:
            The frame, or None if the file has a packet for it but the decoder returns no picture.

        Raises:
            av.FFmpegError: if the data cannot be decoded.
        """
        if self._last is not None and self._last[0] == time:
            return self._last[1]
        while True:
            try:
                pixels = self._decode_until(time)
            except av.FFmpegError:
                if not self._drop_shortcut():
                    raise
                continue
            if pixels is not None:
                self._last = time, pixels
            if pixels is not None or self._is_cut or not self._drop_shortcut():
                return pixels

    def _decode_until(self, time: int) -> np.ndarray | None:
        """Seek if a key frame lies between here and the timestamp, then decode up to it."""
        keys = self.index.key_times
        key = keys[max(0, bisect_right(keys, time) - 1)]
        if self._seeks and key > self._position:
            self._decoded.close()
            self._container.seek(key, stream=self._stream)
            self._began = key
            self._decoded, self._ahead, self._sought = self._decode(), None, True
        while (following := self._ahead or next(self._decoded, None)) is not None:
            timestamp, frame = following
            self._ahead = following if timestamp > time else None
            if timestamp > time:
                return None
            self._position = timestamp
            if timestamp == time:
                return to_picture(frame, self.pixel_aspect, self.index.matrix)
        return None

    def _drop_shortcut(self) -> bool:
        """Start again without one of the shortcuts; return False if no shortcut is in use."""
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
        self._container = open_container(self.index.path)
        self._stream = self._container.streams.video[self.index.track]
        self._context = self._stream.codec_context
        if self.index.has_alpha:  # FFmpeg's built-in decoders of VP8 and VP9 ignore transparency
            self._context = av.CodecContext.create(ALPHA_DECODERS[self.index.codec], "r")
        self._context.thread_count = (
            1  # one decoder per thread costs less than threads inside a decoder: see docs/LOG.md
        )
        self._position = self._began = self.index.times[0]
        self._sought = False
        self._decoded = self._decode()
        self._ahead = None

    def _decode(self) -> Generator[tuple[int, av.VideoFrame], None, None]:
        count, broken = 0, None
        for packet in self._container.demux(self._stream):
            if broken is not None and packet.size:
                raise broken  # a cut file breaks only its last packet, and this was an earlier one
            if self._skips and packet.size:
                self._context.skip_frame = "DEFAULT" if packet.pts in self.wanted else "NONREF"
            try:
                frames = self._context.decode(packet)
            except av.FFmpegError as error:
                if not packet.size:
                    raise
                broken, self._is_cut = error, True
                continue
            is_end = self._seeks and packet.pts in self._ends and packet.pts >= self._began
            if is_end:  # a decoder holds frames back until later ones come; nobody needs those
                frames += self._context.decode(None)
                self._context.flush_buffers()
            for frame in frames:
                timestamp = frame.pts if self.index.has_timestamps else count
                count += 1
                if timestamp is not None:
                    yield timestamp, frame
            if is_end:
                self._sought = True  # what follows has to be sought
                return


def open_container(path: str) -> av.container.InputContainer:
    """Open a file; its title and tags may have any text encoding."""
    return av.open(path, metadata_errors="replace")


def split_into_pieces(index: FrameIndex, wanted: Sequence[int]) -> list[list[int]]:
    """Split timestamps into pieces that a thread decodes; a piece ends at a key frame if there is one soon.

    Args:
        index: frame index of the file.
        wanted: timestamps, ascending.
    """
    pieces: list[list[int]] = [[]]
    for time in wanted:
        last = pieces[-1]
        new_key = bool(last) and bisect_right(index.key_times, time) > bisect_right(index.key_times, last[-1])
        if len(last) >= MAX_PIECE or (len(last) >= MIN_PIECE and new_key):
            pieces.append([])
        pieces[-1].append(time)
    return pieces


def decode_frames(
    index: FrameIndex,
    wanted: Sequence[int],
    resize: Callable[[Tensor], Tensor],
    threads: int,
    make_source: Callable[[FrameIndex, frozenset[int]], FrameSource] = Decoder,
) -> Generator[Tensor, None, int]:
    """Decode frames in order, a few pieces ahead of the caller; each frame is resized at once.

    A missing frame is replaced by the frame before it, as players do.

    Args:
        index: frame index of the file.
        wanted: timestamps, ascending.
        resize: uint8 [1, h, w, 3] -> uint8 [1, H, W, 3].
        threads: highest number of threads; a file with few key frames gets fewer.
        make_source: makes one thread's source of frames.

    Yields:
        The frames of one piece, uint8 [t, H, W, 3].

    Returns:
        The number of missing frames.

    Raises:
        DecodingError: if frames change their size, or too many are missing.
    """
    last: Tensor | None = None  # frame, [1, H, W, 3]
    missing, waiting = list[int](), 0  # waiting: number of missing frames before the first picture
    with closing(_read_ahead(index, wanted, resize, threads, make_source)) as decoded:
        for piece, frames in decoded:
            missing += [time for time, frame in zip(piece, frames) if frame is None]
            if len(missing) > max(1, MAX_MISSING * len(wanted)):
                numbers = ", ".join(str(index.times.index(time)) for time in missing[:3])
                raise DecodingError(f"frames {numbers}, ... are missing")
            output = list[Tensor]()
            for frame in frames:
                last = last if frame is None else frame
                waiting += 1
                if last is not None:
                    output += [last] * waiting
                    waiting = 0
            if output:
                yield _together(output)
    if waiting:
        raise DecodingError("all of its frames are missing")
    return len(missing)


def _together(frames: list[Tensor]) -> Tensor:
    """Concatenate frames [1, H, W, 3] of any device: [t, H, W, 3]."""
    if frames[0].device.type != "cpu":
        return torch.cat(frames)
    # torch's threads would stay awake for a while to wait for more work, and take the processor from the decoders
    return torch.from_numpy(np.concatenate([frame.numpy() for frame in frames]))


def _read_ahead(
    index: FrameIndex,
    wanted: Sequence[int],
    resize: Callable[[Tensor], Tensor],
    threads: int,
    make_source: Callable[[FrameIndex, frozenset[int]], FrameSource],
) -> Generator[tuple[list[int], list[Tensor | None]], None, None]:
    """Yield each piece with its frames, in order, while threads decode the next pieces; a missing frame is None."""
    pieces, idle = split_into_pieces(index, wanted), SimpleQueue[FrameSource]()
    threads = max(1, min(threads, len({bisect_right(index.key_times, piece[0]) for piece in pieces})))
    all_times, sources, sizes = frozenset(wanted), list[FrameSource](), set[tuple[int, ...]]()

    def run(piece: list[int]) -> list[Tensor | None]:
        source = idle.get()
        try:
            pictures = (source.frame(time) for time in piece)
            frames = [None if frame is None else resize(torch.as_tensor(frame)[None]) for frame in pictures]
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
            sources.append(make_source(index, all_times))
            idle.put(sources[-1])
        todo = iter(pieces)
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
