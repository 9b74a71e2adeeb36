"""Where the frames of a file are and when each is shown: found by reading every packet once, without decoding."""

from __future__ import annotations

import gc
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from itertools import accumulate, pairwise
from statistics import median
from typing import Any, NamedTuple

import av
import numpy as np
from av.stream import Disposition

from datamodules.video_files.geometry import DisplayMatrix, display_matrix, usable_aspect

STEADY = 0.25  # seconds: a frame further from where a constant rate has it makes the rate variable
HEADER = 0.02  # share by which a header's frame rate may differ from the timestamps'
LATE = 0.5  # seconds: a first frame that comes later has something before it, sound in most cases
RARE = 0.25  # frames a second: a track with fewer is no moving picture
FINEST = 1000  # moments a second among which frames of a variable rate are chosen
PATIENCE = 32  # packets until the first frame
STILL = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image

Sample = Callable[[int, float], Sequence[int]]  # (number of frames, frames a second) -> indices, ascending


@dataclass(frozen=True)
class FrameIndex:
    """Where the frames of one track are."""

    path: str
    track: int  # among the file's video tracks, covers and stills included
    tracks: int  # how many of those move
    times: list[int]  # names each frame, ascending: its timestamp in `time_base` seconds; 0, 1, 2, ... if not `timed`
    seconds: list[float]  # when each is shown, from the start of the video as players count
    starts_at: float  # what the file's own clock says at that start, in seconds
    keys: list[int]  # those of `times` that are key frames: decoding can begin there
    timed: bool  # whether frames are known by timestamps; else they are counted
    seekable: bool
    codec: str
    header_rate: float | None  # frames a second, as the header has it
    pixel_aspect: Fraction  # width of a stored pixel over its height
    matrix: DisplayMatrix | None = None  # how pictures are turned and mirrored to be upright
    has_alpha: bool = False  # in a stream of its own beside the pictures, as WebM has it
    warnings: tuple[str, ...] = ()
    last_shown: float | None = None  # seconds that the last frame is on screen, where each picture has its own time

    @cached_property
    def true_rate(self) -> float:
        """Frames a second by the timestamps; by the header where there is one frame."""
        span = self.seconds[-1] - self.seconds[0]
        return (len(self.seconds) - 1) / span if span > 0 else self.header_rate or 1.0

    @property
    def rate(self) -> float:
        """Frames a second: the header's word, which is exact, where the timestamps agree with it."""
        return self.header_rate if self.header_rate and self.header_is_right else self.true_rate

    @property
    def length(self) -> float:
        """Seconds from the start to the end of the last frame."""
        return round(self.seconds[-1] + (self.last_shown or 1 / self.rate), 6)

    @cached_property
    def is_steady(self) -> bool:
        """Whether all frames are about as far apart."""
        line = np.linspace(self.seconds[0], self.seconds[-1], len(self.seconds))
        return bool(np.abs(np.asarray(self.seconds) - line).max() <= max(STEADY, 1 / self.true_rate))

    @property
    def header_is_right(self) -> bool:
        """Whether the header's frame rate is that of the timestamps, as far as these are exact."""
        if not self.header_rate:
            return False
        span = self.seconds[-1] - self.seconds[0]
        promised = (len(self.seconds) - 1) / self.header_rate
        return abs(promised - span) <= max(HEADER * span, 1 / self.header_rate)

    def choose(self, sample: Sample, start: float | None = None, end: float | None = None) -> list[int]:
        """Which frames are looked at, as indices.

        Of a constant rate a published rule is taken at its word: it counts frames. Of a variable rate it counts moments
        that lie evenly, and each moment gets the frame that is nearest in time; no frame is taken twice.

        Args:
            sample: the rule.
            start: only frames from this second on.
            end: only frames before this second.
        """
        first = 0 if start is None else max(0, bisect_right(self.seconds, start) - 1)  # what is on screen then
        last = len(self.seconds) if end is None else max(first + 1, bisect_left(self.seconds, end))
        seconds = np.asarray(self.seconds[first:last])
        if self.is_steady:
            return [first + i for i in sample(len(seconds), self.rate)]
        gaps = np.diff(seconds)
        finest = min(FINEST, 1 / gaps[gaps > 0].min()) if bool((gaps > 0).any()) else self.rate
        moments = sample(round((seconds[-1] - seconds[0]) * finest) + 1, finest)
        wanted = seconds[0] + np.asarray(moments) / finest
        after = np.clip(np.searchsorted(seconds, wanted), 1, max(1, len(seconds) - 1))
        before = after - 1
        after = np.minimum(after, len(seconds) - 1)
        nearest = np.where(wanted - seconds[before] <= seconds[after] - wanted, before, after)
        return [first + int(i) for i in np.unique(nearest)]


ANIMATIONS = ("gif", "apng")  # codecs whose pictures have times of their own


class _Packet(NamedTuple):
    pts: int | None
    dts: int | None
    is_key: bool
    is_shown: bool  # an edit list hides what a first frame is built on
    duration: int | None = None


@dataclass
class _Track:
    """What is found of one video track."""

    stream: Any
    packets: list[_Packet] = field(default_factory=list)
    matrix: DisplayMatrix | None = None
    tried: int = 0  # packets that were decoded for it; enough of them once there was a frame

    def add(self, packet: av.Packet) -> None:
        """Take note of a packet; the first ones are decoded for the frame's display matrix."""
        self.packets.append(_Packet(packet.pts, packet.dts, packet.is_keyframe, not packet.is_discard, packet.duration))
        if self.tried < PATIENCE:
            self.tried += 1
            self._look(packet)

    def _look(self, packet: av.Packet) -> None:
        with suppress(av.FFmpegError):  # said when the frame is asked for
            for frame in packet.decode():
                self.matrix, self.tried = display_matrix(frame), PATIENCE
                return

    @property
    def is_still(self) -> bool:
        """Whether it is a cover, or another picture beside the video."""
        return bool(self.stream.disposition & STILL)

    @property
    def preference(self) -> tuple[bool, bool, bool]:
        """Moves at all, is the default, moves as a picture does; of equals the first track is taken."""
        known = [packet.pts for packet in self.packets if packet.pts is not None]
        span = float((max(known) - min(known)) * self.stream.time_base) if known else 0.0
        often = span == 0 or (len(self.packets) - 1) / span > RARE
        return len(self.packets) > 2, bool(self.stream.disposition & Disposition.default), often


def read_index(container: av.container.InputContainer, track: int | None = None) -> FrameIndex | None:
    """Look at every packet of the video tracks.

    What stands before the first key frame (a recording that begins in the middle) cannot be decoded and does not count.
    Frames are counted where they cannot be told by their timestamps: in AVI, which has none of its own, and where
    timestamps are missing or begin anew (files that were joined).

    Args:
        container: open, at its beginning.
        track: among the video tracks, from 0; None: the one that players show.

    Returns:
        None where no video track has a frame.

    Raises:
        ValueError: for a track that there is not, or a codec that no decoder has.
    """
    every = container.streams.video
    if track is not None and not 0 <= track < len(every):
        raise ValueError(f"has no video track {track}: it has {len(every)}, counted from 0")
    streams = [stream for stream in every if stream.codec_context is not None]  # None: no decoder has its codec
    asked = every if track is None else [every[track]]
    if asked and not any(stream in streams for stream in asked):
        raise ValueError("has video of a codec that FFmpeg does not know, or its header is damaged")
    tracks, broken = [_Track(stream) for stream in streams], None
    by_index = {found.stream.index: found for found in tracks}
    for stream in streams:
        stream.codec_context.thread_count = 1  # a first frame needs no more
    try:
        for packet in container.demux(*streams) if streams else ():
            if packet.size:
                by_index[packet.stream_index].add(packet)
    except av.FFmpegError as error:
        if not any(found.packets for found in tracks):
            raise
        broken = f"reading it stopped before its end ({error.strerror})"
    finally:
        gc.collect(1)  # a frame whose side data was read holds itself, and threads that no forked process has
    moving = [found for found in tracks if found.packets and not found.is_still]
    wanted = None if track is None else by_index[every[track].index]
    chosen = wanted or max(moving, key=lambda found: found.preference, default=None)
    if chosen is None or not any(packet.is_shown for packet in chosen.packets):
        return None
    index = _index(container, chosen, sum(len(found.packets) > 2 for found in moving))
    return index if broken is None else replace(index, warnings=(*index.warnings, broken))


def _index(container: av.container.InputContainer, found: _Track, tracks: int) -> FrameIndex:
    """The index of one track, of so many that move."""
    stream, packets = found.stream, found.packets
    begins = next((i for i, packet in enumerate(packets) if packet.is_key), 0)
    keys = sorted(packet.pts for packet in packets if packet.is_key and packet.pts is not None)
    packets, name = [packet for packet in packets[begins:] if packet.is_shown], container.format.name
    tick = float(stream.time_base)
    stamps = sorted({packet.pts for packet in packets if packet.pts is not None})
    orders = [packet.dts for packet in packets if packet.dts is not None]
    in_order = all(earlier <= later for earlier, later in pairwise(orders))
    timed = "avi" not in name and in_order and len(stamps) == len(packets) and bool(keys)
    header_rate: float | None = float(stream.average_rate or 0) or None
    warnings: tuple[str, ...] = ()
    if timed:
        times = stamps[bisect_left(stamps, keys[0]) :]
        clock = [time * tick for time in times]
    else:
        times, keys = list(range(len(packets))), [0]
        clock = _repaired([order * tick for order in orders], len(packets), header_rate)
        if not stamps and "avi" not in name:
            assumed = f"{header_rate:g} frames a second are assumed" if header_rate else "its frames are only counted"
            warnings = (f"has no timestamps: {assumed}",)
    begin = clock[0] if container.start_time is None else container.start_time / av.time_base
    origin = begin if timed and clock[0] - begin > LATE else clock[0]
    return FrameIndex(
        path=container.name,
        track=container.streams.video.index(stream),
        tracks=tracks,
        times=times,
        seconds=[second - origin for second in clock],
        starts_at=origin,
        keys=keys,
        timed=timed,
        seekable=timed and ("mp4" in name or "matroska" in name),  # others have no index of their own, land anywhere
        codec=stream.codec_context.name,
        header_rate=header_rate,
        pixel_aspect=usable_aspect(stream.sample_aspect_ratio),
        matrix=found.matrix,
        has_alpha=stream.metadata.get("alpha_mode") == "1" and stream.codec_context.name in ("vp8", "vp9"),
        warnings=warnings,
        last_shown=_last_shown(stream, packets),
    )


def _last_shown(stream: av.VideoStream, packets: list[_Packet]) -> float | None:
    """Seconds that an animation's last picture is shown; None for a video, whose frames are about alike."""
    if stream.codec_context.name not in ANIMATIONS or not packets[-1].duration:
        return None
    return float(packets[-1].duration * (stream.time_base or 0)) or None


def _repaired(clock: list[float], count: int, rate: float | None) -> list[float]:
    """Times of `count` frames in seconds, ascending, from those of their packets, which may begin anew or be missing.

    Raises:
        ValueError: where there are none, and no frame rate.
    """
    if len(clock) < count:
        if rate is None:
            raise ValueError("has neither timestamps nor a frame rate")
        return [i / rate for i in range(count)]
    gaps = [later - earlier for earlier, later in pairwise(clock)]
    usual = median([gap for gap in gaps if gap > 0] or [1 / (rate or 1.0)])
    return list(accumulate((gap if gap > 0 else usual for gap in gaps), initial=clock[0]))
