"""Build the frame index of a video file: read all packets of its video tracks, without decoding them."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, pairwise
from statistics import median
from typing import Any, NamedTuple

import av
from av.stream import Disposition

from datamodules.video_files.frame_index import FrameIndex
from datamodules.video_files.geometry import DisplayMatrix, read_display_matrix, usable_aspect
from datamodules.video_files.reference_frames import reference_test

LATE_START = 0.5  # seconds; if the first frame comes later, something precedes it, usually sound
MIN_MOVING_RATE = 0.25  # frames per second; a track with fewer is not a moving picture
MAX_TRIED_PACKETS = 32  # packets per track that are decoded to get its first frame
STILL_TRACK = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image

ANIMATIONS = ("gif", "apng")  # codecs in which each picture has a duration


class _Packet(NamedTuple):
    pts: int | None
    dts: int | None
    is_key: bool
    is_shown: bool  # False if an edit list hides it: later frames are built on it
    is_reference: bool  # whether other frames are built on it
    duration: int | None


@dataclass
class _Track:
    """One video track while its packets are read."""

    stream: Any
    packets: list[_Packet] = field(default_factory=list)
    matrix: DisplayMatrix | None = None
    tried: int = 0  # packets decoded for `matrix`; set to the maximum once a frame was decoded

    def add(self, packet: av.Packet) -> None:
        """Add a packet; the first packets are decoded to read the display matrix of the first frame."""
        facts = packet.is_keyframe, not packet.is_discard, self._is_reference(packet), packet.duration
        self.packets.append(_Packet(packet.pts, packet.dts, *facts))
        if self.tried < MAX_TRIED_PACKETS:
            self.tried += 1
            self._read_matrix(packet)

    def _read_matrix(self, packet: av.Packet) -> None:
        with suppress(av.FFmpegError):  # reported when the frame is decoded for the caller
            for frame in packet.decode():
                self.matrix, self.tried = read_display_matrix(frame), MAX_TRIED_PACKETS
                return

    @cached_property
    def _is_reference(self) -> Callable[[av.Packet], bool]:
        return reference_test(self.stream.codec_context)

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
    place = {packet.pts: i for i, packet in enumerate(packets) if packet.pts is not None}  # in decoding order
    decode_times = [packet.dts for packet in packets if packet.dts is not None]
    in_order = all(earlier <= later for earlier, later in pairwise(decode_times))
    has_timestamps = "avi" not in name and in_order and len(place) == len(packets) and bool(keys)
    header_rate, warnings = float(stream.average_rate or 0) or None, tuple[str, ...]()
    if has_timestamps:
        times = [time for time in sorted(place) if time >= keys[0]]
        clock, positions = [time * tick for time in times], [place[time] for time in times]
    else:
        times, keys, positions = list(range(len(packets))), [0], list(range(len(packets)))
        clock = _repair_times([time * tick for time in decode_times], len(packets), header_rate)
        if not place and "avi" not in name:
            warnings = (_without_times(header_rate),)
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
        positions=positions,
        are_references=[packets[i].is_reference for i in positions],
        warnings=warnings,
        last_duration=_last_duration(stream, packets),
    )


def _without_times(rate: float | None) -> str:
    """Return the warning about a file whose packets have no timestamps."""
    return f"has no timestamps: {f'{rate:g} frames a second are assumed' if rate else 'its frames are only counted'}"


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
