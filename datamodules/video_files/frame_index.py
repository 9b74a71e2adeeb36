"""Index of a video file's frames with the time at which each is shown, read from all packets without decoding them."""

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

from datamodules.video_files.geometry import DisplayMatrix, read_display_matrix, usable_aspect

STEADY_TOLERANCE = 0.25  # seconds between a frame's time and that of a constant rate; more makes the rate variable
HEADER_TOLERANCE = 0.02  # share by which a header's frame rate may differ from the timestamps'
LATE_START = 0.5  # seconds; if the first frame comes later, something precedes it, usually sound
MIN_MOVING_RATE = 0.25  # frames per second; a track with fewer is not a moving picture
MAX_MOMENT_RATE = 1000  # moments per second among which frames of a variable rate are chosen
MAX_TRIED_PACKETS = 32  # packets per track that are decoded to get its first frame
STILL_TRACK = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image

Sample = Callable[[int, float], Sequence[int]]  # (number of frames, frames per second) -> indices, ascending


@dataclass(frozen=True)
class FrameIndex:
    """Frames of one video track, with the time at which each is shown."""

    path: str
    track: int  # number of the track among the file's video tracks, covers and stills included
    moving_tracks: int  # number of tracks that are moving pictures
    times: list[int]  # id of each frame, ascending: its timestamp in units of `time_base`, or 0, 1, 2, ... if counted
    seconds: list[float]  # when each frame is shown, from the start of the video as players count
    starts_at: float  # timestamp of that start in the file, in seconds
    key_times: list[int]  # the `times` of key frames, where decoding can begin
    has_timestamps: bool  # False: the timestamps are unusable, and frames are counted
    seekable: bool  # whether seeking reaches the key frame that was asked for
    codec: str
    header_rate: float | None  # frames per second according to the header
    pixel_aspect: Fraction  # width over height of a stored pixel
    matrix: DisplayMatrix | None = None  # how to turn and mirror pictures to make them upright
    has_alpha: bool = False  # whether transparency is stored in a separate stream, as in WebM
    warnings: tuple[str, ...] = ()
    last_duration: float | None = None  # seconds that the last frame is shown; only if each picture has a duration

    @cached_property
    def true_rate(self) -> float:
        """Frames per second by the timestamps, or by the header if there is only one frame."""
        span = self.seconds[-1] - self.seconds[0]
        return (len(self.seconds) - 1) / span if span > 0 else self.header_rate or 1.0

    @property
    def rate(self) -> float:
        """Frames per second: the header's exact value if the timestamps agree with it, else the timestamps'."""
        return self.header_rate if self.header_rate and self.header_is_right else self.true_rate

    @property
    def length(self) -> float:
        """Seconds from the start to the end of the last frame."""
        return round(self.seconds[-1] + (self.last_duration or 1 / self.rate), 6)

    @cached_property
    def is_steady(self) -> bool:
        """Whether the frames are spaced evenly, which means a constant rate."""
        line = np.linspace(self.seconds[0], self.seconds[-1], len(self.seconds))
        return bool(np.abs(np.asarray(self.seconds) - line).max() <= max(STEADY_TOLERANCE, 1 / self.true_rate))

    @property
    def header_is_right(self) -> bool:
        """Whether the header's frame rate agrees with the timestamps within their precision."""
        if not self.header_rate:
            return False
        span = self.seconds[-1] - self.seconds[0]
        promised = (len(self.seconds) - 1) / self.header_rate
        return abs(promised - span) <= max(HEADER_TOLERANCE * span, 1 / self.header_rate)

    def choose(self, sample: Sample, start: float | None = None, end: float | None = None) -> list[int]:
        """Choose the frames to look at, and return their indices.

        If the rate is constant, the sampling rule counts frames, as published. If it is variable, the rule counts
        evenly spaced moments, and each moment takes the frame nearest in time; no frame is taken twice.

        Args:
            sample: sampling rule: (number of frames, frames per second) -> indices.
            start: second from which frames are chosen, with the frame on screen then; None is the start of the video.
            end: second before which frames are chosen; None is the end of the video.
        """
        first = 0 if start is None else max(0, bisect_right(self.seconds, start) - 1)  # the frame on screen at `start`
        last = len(self.seconds) if end is None else max(first + 1, bisect_left(self.seconds, end))
        seconds = np.asarray(self.seconds[first:last])
        if self.is_steady:
            return [first + i for i in sample(len(seconds), self.rate)]
        gaps = np.diff(seconds)
        moment_rate = min(MAX_MOMENT_RATE, 1 / gaps[gaps > 0].min()) if bool((gaps > 0).any()) else self.rate
        moments = sample(round((seconds[-1] - seconds[0]) * moment_rate) + 1, moment_rate)
        wanted = seconds[0] + np.asarray(moments) / moment_rate
        after = np.clip(np.searchsorted(seconds, wanted), 1, max(1, len(seconds) - 1))
        before = after - 1
        after = np.minimum(after, len(seconds) - 1)
        nearest = np.where(wanted - seconds[before] <= seconds[after] - wanted, before, after)
        return [first + int(i) for i in np.unique(nearest)]


ANIMATIONS = ("gif", "apng")  # codecs in which each picture has a duration


class _Packet(NamedTuple):
    pts: int | None
    dts: int | None
    is_key: bool
    is_shown: bool  # False if an edit list hides it: later frames are built on it
    duration: int | None = None


@dataclass
class _Track:
    """One video track while its packets are read."""

    stream: Any
    packets: list[_Packet] = field(default_factory=list)
    matrix: DisplayMatrix | None = None
    tried: int = 0  # packets decoded for `matrix`; set to the maximum once a frame was decoded

    def add(self, packet: av.Packet) -> None:
        """Add a packet; the first packets are decoded to read the display matrix of the first frame."""
        self.packets.append(_Packet(packet.pts, packet.dts, packet.is_keyframe, not packet.is_discard, packet.duration))
        if self.tried < MAX_TRIED_PACKETS:
            self.tried += 1
            self._read_matrix(packet)

    def _read_matrix(self, packet: av.Packet) -> None:
        with suppress(av.FFmpegError):  # reported when the frame is decoded for the caller
            for frame in packet.decode():
                self.matrix, self.tried = read_display_matrix(frame), MAX_TRIED_PACKETS
                return

    @property
    def is_still(self) -> bool:
        """Whether the track is a cover or another still picture."""
        return bool(self.stream.disposition & STILL_TRACK)

    @property
    def preference(self) -> tuple[bool, bool, bool]:
        """Sort key: has more than two packets, is the default track, is fast enough to be a moving picture."""
        stamps = [packet.pts for packet in self.packets if packet.pts is not None]
        span = float((max(stamps) - min(stamps)) * self.stream.time_base) if stamps else 0.0
        is_fast = span == 0 or (len(self.packets) - 1) / span > MIN_MOVING_RATE
        return len(self.packets) > 2, bool(self.stream.disposition & Disposition.default), is_fast


def read_index(container: av.container.InputContainer, track: int | None = None) -> FrameIndex | None:
    """Read every packet of the video tracks, and index the frames of one track.

    Frames before the first key frame (of a recording that begins in the middle) cannot be decoded and are left out.
    Frames are counted if timestamps cannot identify them: in AVI, which stores none, and in files whose timestamps are
    missing or restart (joined files).

    Args:
        container: an open container at its beginning.
        track: number of the track among the video tracks, from 0; None takes the track that players show.

    Returns:
        The index, or None if no video track has a frame.

    Raises:
        ValueError: if there is no such track, or no decoder for its codec.
    """
    all_streams = container.streams.video
    if track is not None and not 0 <= track < len(all_streams):
        raise ValueError(f"has no video track {track}: it has {len(all_streams)}, counted from 0")
    streams = [stream for stream in all_streams if stream.codec_context is not None]  # None: unknown codec
    candidates = all_streams if track is None else [all_streams[track]]
    if candidates and not any(stream in streams for stream in candidates):
        raise ValueError("has video of a codec that FFmpeg does not know, or its header is damaged")
    tracks, broken = [_Track(stream) for stream in streams], None
    by_index = {candidate.stream.index: candidate for candidate in tracks}
    for stream in streams:
        stream.codec_context.thread_count = 1  # one thread is enough for a first frame
    try:
        for packet in container.demux(*streams) if streams else ():
            if packet.size:
                by_index[packet.stream_index].add(packet)
    except av.FFmpegError as error:
        if not any(candidate.packets for candidate in tracks):
            raise
        broken = f"reading it stopped before its end ({error.strerror})"
    finally:
        gc.collect(1)  # a frame with side data that was read is in a cycle, and holds threads that a fork would lack
    moving = [candidate for candidate in tracks if candidate.packets and not candidate.is_still]
    wanted = None if track is None else by_index[all_streams[track].index]
    chosen = wanted or max(moving, key=lambda candidate: candidate.preference, default=None)  # the first of equals
    if chosen is None or not any(packet.is_shown for packet in chosen.packets):
        return None
    index = _index(container, chosen, sum(len(candidate.packets) > 2 for candidate in moving))
    return index if broken is None else replace(index, warnings=(*index.warnings, broken))


def _index(container: av.container.InputContainer, track: _Track, moving_tracks: int) -> FrameIndex:
    """Index the frames of one track; `moving_tracks` is the number of moving tracks in the file."""
    stream, packets = track.stream, track.packets
    first_key = next((i for i, packet in enumerate(packets) if packet.is_key), 0)
    keys = sorted(packet.pts for packet in packets if packet.is_key and packet.pts is not None)
    packets, name = [packet for packet in packets[first_key:] if packet.is_shown], container.format.name
    tick = float(stream.time_base)
    stamps = sorted({packet.pts for packet in packets if packet.pts is not None})
    decode_times = [packet.dts for packet in packets if packet.dts is not None]
    in_order = all(earlier <= later for earlier, later in pairwise(decode_times))
    has_timestamps = "avi" not in name and in_order and len(stamps) == len(packets) and bool(keys)
    header_rate: float | None = float(stream.average_rate or 0) or None
    warnings: tuple[str, ...] = ()
    if has_timestamps:
        times = stamps[bisect_left(stamps, keys[0]) :]
        clock = [time * tick for time in times]
    else:
        times, keys = list(range(len(packets))), [0]
        clock = _repair_times([time * tick for time in decode_times], len(packets), header_rate)
        if not stamps and "avi" not in name:
            assumed = f"{header_rate:g} frames a second are assumed" if header_rate else "its frames are only counted"
            warnings = (f"has no timestamps: {assumed}",)
    start = clock[0] if container.start_time is None else container.start_time / av.time_base
    origin = start if has_timestamps and clock[0] - start > LATE_START else clock[0]
    return FrameIndex(
        path=container.name,
        track=container.streams.video.index(stream),
        moving_tracks=moving_tracks,
        times=times,
        seconds=[second - origin for second in clock],
        starts_at=origin,
        key_times=keys,
        has_timestamps=has_timestamps,
        seekable=has_timestamps and ("mp4" in name or "matroska" in name),  # others lack a seek index
        codec=stream.codec_context.name,
        header_rate=header_rate,
        pixel_aspect=usable_aspect(stream.sample_aspect_ratio),
        matrix=track.matrix,
        has_alpha=stream.metadata.get("alpha_mode") == "1" and stream.codec_context.name in ("vp8", "vp9"),
        warnings=warnings,
        last_duration=_last_duration(stream, packets),
    )


def _last_duration(stream: av.VideoStream, packets: list[_Packet]) -> float | None:
    """Return how long an animation's last picture is shown, in seconds; None for a video, whose frames are even."""
    if stream.codec_context.name not in ANIMATIONS or not packets[-1].duration:
        return None
    return float(packets[-1].duration * (stream.time_base or 0)) or None


def _repair_times(clock: list[float], count: int, rate: float | None) -> list[float]:
    """Return ascending times of `count` frames, in seconds.

    Args:
        clock: decoding times of the packets in seconds; they may restart or be missing.
        count: number of frames.
        rate: frames per second, used if times are missing.

    Raises:
        ValueError: if times are missing and there is no frame rate.
    """
    if len(clock) < count:
        if rate is None:
            raise ValueError("has neither timestamps nor a frame rate")
        return [i / rate for i in range(count)]
    gaps = [later - earlier for earlier, later in pairwise(clock)]
    usual = median([gap for gap in gaps if gap > 0] or [1 / (rate or 1.0)])
    return list(accumulate((gap if gap > 0 else usual for gap in gaps), initial=clock[0]))
