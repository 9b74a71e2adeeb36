"""Index of a video file's frames: when each is shown, and what decoding it takes."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from datamodules.video_files.cheap_frames import DecodingCosts, choose_cheap_frames
from datamodules.video_files.geometry import DisplayMatrix

STEADY_TOLERANCE = 0.25  # seconds between a frame's time and that of a constant rate; more makes the rate variable
HEADER_TOLERANCE = 0.02  # share by which a header's frame rate may differ from the timestamps'
MAX_MOMENT_RATE = 1000  # moments per second among which frames of a variable rate are chosen
# Codecs whose decoders obey `skip_frame` exactly, packet by packet, as tests show; libdav1d (AV1) reads it only once.
SKIPPING_CODECS = ("h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "vp8", "vp9")

# The sequences of an index, and their type codes of `array`: hours of video have a million frames.
ARRAYS = {"times": "q", "seconds": "d", "key_times": "q", "positions": "q", "are_references": "b"}

Sample = Callable[[int, float], Sequence[int]]  # (number of frames, frames per second) -> indices, ascending


def as_arrays(**sequences: np.ndarray) -> dict[str, Any]:
    """Convert sequences of an index to arrays, which take a few bytes per number."""
    return {name: array(ARRAYS[name], values.astype(ARRAYS[name]).tobytes()) for name, values in sequences.items()}


@dataclass(frozen=True)
class FrameIndex:
    """Frames of one video track, with the time at which each is shown."""

    path: str
    track: int  # number of the track among the file's video tracks, covers and stills included
    moving_tracks: int  # number of tracks that are moving pictures
    times: Sequence[int]  # id of each frame, ascending: its timestamp in units of `time_base`, or 0, 1, ... if counted
    seconds: Sequence[float]  # when each frame is shown, from the start of the video as players count
    starts_at: float  # timestamp of that start in the file, in seconds
    key_times: Sequence[int]  # the `times` of key frames, where decoding can begin
    has_timestamps: bool  # False: the timestamps are unusable, and frames are counted
    seekable: bool  # whether seeking reaches the key frame that was asked for
    codec: str
    header_rate: float | None  # frames per second according to the header
    pixel_aspect: Fraction  # width over height of a stored pixel
    matrix: DisplayMatrix | None = None  # how to turn and mirror pictures to make them upright
    has_alpha: bool = False  # whether transparency is stored in a separate stream, as in WebM
    positions: Sequence[int] = ()  # place of each frame in decoding order; empty: as shown
    are_references: Sequence[int] = ()  # 1 where other frames are built on a frame, else 0; empty: all are built on
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

    @property
    def can_skip(self) -> bool:
        """Whether the decoder can leave out frames that no other frame is built on."""
        return self.has_timestamps and self.codec in SKIPPING_CODECS and not self.has_alpha

    @cached_property
    def groups(self) -> np.ndarray:
        """The key frame that decoding of each frame begins at, as a number: int64 [F], ascending.

        A frame before a key frame that is decoded after it belongs to the key frame before (open GOP).
        """
        starts = self.key_times if self.seekable else self.times[:1]  # others are decoded from their beginning
        return np.maximum(np.searchsorted(starts, self.times, side="right") - 1, 0)

    @cached_property
    def costs(self) -> DecodingCosts:
        """Costs of decoding each frame."""
        position = np.asarray(self.positions) if self.positions else np.arange(len(self.times))
        references = np.ones(len(position), dtype=np.int64)
        if self.can_skip and self.are_references:
            references = np.asarray(self.are_references, dtype=np.int64)
        begins, group = np.unique(self.groups, return_index=True, return_inverse=True)[1:]
        order = np.lexsort((position, group))
        through = np.empty_like(references)
        through[order] = np.cumsum(references[order])
        through -= np.concatenate([[0], np.cumsum(references)])[begins][group]  # counted from each group's key frame
        next_key = np.append(np.minimum.reduceat(position, begins)[1:], len(position))
        return DecodingCosts(group, through + (position > next_key[group]), 1 - references)

    def last_decoded(self, wanted: Iterable[int]) -> frozenset[int]:
        """Return the frames, of some `times`, after which no other one is decoded before the next key frame."""
        numbers = np.searchsorted(self.times, sorted(wanted))
        positions = np.asarray(self.positions)[numbers] if self.positions else numbers
        last = {int(group): number for _, group, number in sorted(zip(positions, self.groups[numbers], numbers))}
        return frozenset(self.times[number] for number in last.values())

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

    def half_step(self, chosen: Sequence[int]) -> float:
        """Return half the mean distance of chosen frames, in seconds; 0 for a single one."""
        return (self.seconds[chosen[-1]] - self.seconds[chosen[0]]) / max(1, len(chosen) - 1) / 2

    def choose_near(
        self, chosen: Sequence[int], tolerance: float, start: float | None = None, end: float | None = None
    ) -> list[int]:
        """Replace chosen frames by frames nearby that are cheaper to decode, see `choose_cheap_frames`.

        Args:
            chosen: indices that `choose` returned.
            tolerance: seconds by which a frame may move.
            start: second from which frames are chosen, as for `choose`.
            end: second before which frames are chosen, as for `choose`.
        """
        first = 0 if start is None else min(chosen[0], bisect_left(self.seconds, start))
        last = len(self.seconds) if end is None else max(chosen[-1] + 1, bisect_left(self.seconds, end))
        return choose_cheap_frames(chosen, np.asarray(self.seconds), tolerance, self.costs, first, last)
