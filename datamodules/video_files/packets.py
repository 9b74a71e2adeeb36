"""Build the frame index of a video file: read all packets of its video tracks, without decoding them."""

from __future__ import annotations

import gc
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, pairwise
from statistics import median
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from datamodules.video_files.frame_index import FrameIndex, as_arrays
from datamodules.video_files.geometry import DisplayMatrix, read_display_matrix, usable_aspect
from datamodules.video_files.reference_frames import reference_test

LATE_START = 0.5  # seconds; if the first frame comes later, something precedes it, usually sound
MIN_MOVING_RATE = 0.25  # frames per second; a track with fewer is not a moving picture
MAX_TRIED_PACKETS = 32  # packets per track that are decoded to get its first frame
STILL_TRACK = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image

ANIMATIONS = ("gif", "apng")  # codecs in which each picture has a duration


MISSING = -(2**63)  # a time that a packet lacks; FFmpeg's number for it


class _Packets:
    """The packets of a track, in the order of the file: a few bytes for each, since hours have a million."""

    def __init__(self) -> None:
        self.pts, self.dts, self.durations = array("q"), array("q"), array("q")
        self.are_keys, self.are_references = array("b"), array("b")
        self.are_shown = array("b")  # false where an edit list hides a packet: later frames are built on it

    def __len__(self) -> int:
        return len(self.pts)

    def add(self, packet: av.Packet, is_reference: bool) -> None:
        """Add a packet; `is_reference`: whether other frames are built on it."""
        times = packet.pts, packet.dts, packet.duration
        for column, time in zip((self.pts, self.dts, self.durations), times):
            column.append(MISSING if time is None else time)
        self.are_keys.append(packet.is_keyframe)
        self.are_shown.append(not packet.is_discard)
        self.are_references.append(is_reference)

    @cached_property
    def shown(self) -> np.ndarray:
        """The places of the packets that are shown, from the first key frame on."""
        first_key = int(np.argmax(self.are_keys)) if len(self) else 0  # 0 if there is none
        return first_key + np.flatnonzero(self.are_shown[first_key:])

    def of_shown(self, column: array) -> np.ndarray:
        """Return the entries of a column for the packets that are shown."""
        return np.asarray(column)[self.shown]


@dataclass
class _Track:
    """One video track while its packets are read."""

    stream: Any
    packets: _Packets = field(default_factory=_Packets)
    matrix: DisplayMatrix | None = None
    tried: int = 0  # packets decoded for `matrix`; set to the maximum once a frame was decoded

    def add(self, packet: av.Packet) -> None:
        """Add a packet; the first packets are decoded to read the display matrix of the first frame."""
        self.packets.add(packet, self._is_reference(packet))
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
        stamps = _known(self.packets.pts)
        span = float(int(np.ptp(stamps)) * self.stream.time_base) if len(stamps) else 0.0
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
        if not any(len(candidate.packets) for candidate in tracks):
            raise
        broken = f"reading it stopped before its end ({error.strerror})"
    finally:
        gc.collect(1)  # a frame with side data that was read is in a cycle, and holds threads that a fork would lack
    moving = [candidate for candidate in tracks if len(candidate.packets) and not candidate.is_still]
    wanted = None if track is None else by_index[all_streams[track].index]
    chosen = wanted or max(moving, key=lambda candidate: candidate.preference, default=None)  # the first of equals
    if chosen is None or not len(chosen.packets.shown):
        return None
    index = _index(container, chosen, sum(len(candidate.packets) > 2 for candidate in moving))
    return index if broken is None else replace(index, warnings=(*index.warnings, broken))


def _index(container: av.container.InputContainer, track: _Track, moving_tracks: int) -> FrameIndex:
    """Index the frames of one track; `moving_tracks` is the number of moving tracks in the file."""
    stream, packets, name = track.stream, track.packets, container.format.name
    tick, header_rate, warnings = float(stream.time_base), float(stream.average_rate or 0) or None, tuple[str, ...]()
    identified = None if "avi" in name else _by_time(packets)
    has_timestamps = identified is not None
    if identified is not None:
        times, keys, positions = identified
        clock = times * tick
    else:
        times = positions = np.arange(len(packets.shown))
        keys = np.zeros(1, dtype=np.int64)
        decoded = (_known(packets.of_shown(packets.dts)) * tick).tolist()
        clock = np.asarray(_repair_times(decoded, len(times), header_rate))
        if not len(_known(packets.of_shown(packets.pts))) and "avi" not in name:
            warnings = (_without_times(header_rate),)
    first = float(clock[0])
    start = first if container.start_time is None else container.start_time / av.time_base
    origin = start if has_timestamps and first - start > LATE_START else first
    sequences = {"times": times, "seconds": clock - origin, "key_times": keys, "positions": positions}
    sequences["are_references"] = packets.of_shown(packets.are_references)[positions]
    return FrameIndex(
        **as_arrays(**sequences),
        path=container.name,
        track=container.streams.video.index(stream),
        moving_tracks=moving_tracks,
        starts_at=origin,
        has_timestamps=has_timestamps,
        seekable=has_timestamps and ("mp4" in name or "matroska" in name),  # others lack a seek index
        codec=stream.codec_context.name,
        header_rate=header_rate,
        pixel_aspect=usable_aspect(stream.sample_aspect_ratio),
        matrix=track.matrix,
        has_alpha=stream.metadata.get("alpha_mode") == "1" and stream.codec_context.name in ("vp8", "vp9"),
        warnings=warnings,
        last_duration=_last_duration(stream, packets.durations[packets.shown[-1]]),
    )


def _by_time(packets: _Packets) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Order packets by their timestamps; None if these cannot identify frames.

    Returns:
        Ascending timestamps of the frames, those of key frames, and the places of the frames in decoding order.
    """
    pts, decoded = packets.of_shown(packets.pts), _known(packets.of_shown(packets.dts))
    keys = np.sort(_known(np.asarray(packets.pts)[np.asarray(packets.are_keys, dtype=bool)]))
    in_order = bool((np.diff(decoded) >= 0).all())
    if not in_order or not len(keys) or len(np.unique(_known(pts))) < len(pts):
        return None
    positions = np.argsort(pts)
    positions = positions[pts[positions] >= keys[0]]
    return pts[positions], keys, positions


def _without_times(rate: float | None) -> str:
    """Return the warning about a file whose packets have no timestamps."""
    return f"has no timestamps: {f'{rate:g} frames a second are assumed' if rate else 'its frames are only counted'}"


def _known(times: array | np.ndarray) -> np.ndarray:
    """Leave out times that are missing: int64 [at most as many]."""
    times = np.asarray(times)
    return times[times != MISSING]


def _last_duration(stream: av.VideoStream, duration: int) -> float | None:
    """Return how long an animation's last picture is shown, in seconds; None for a video, whose frames are even."""
    if stream.codec_context.name not in ANIMATIONS or duration in (0, MISSING):
        return None
    return float(duration * (stream.time_base or 0)) or None


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
