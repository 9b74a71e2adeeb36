"""The first look: some units of a video, with frames that are smaller if the tower takes several sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from flexselect.families.base import VideoLM
from flexselect.families.inputs import resize_to
from flexselect.looks.plan import LookPlan, Size, look_sizes, plan_looks
from flexselect.looks.regions import View
from flexselect.structures.frames import FrameStream, stream_of
from flexselect.structures.prompt import VideoClip


@dataclass
class Source:
    """The frames of the full look, of which only some are read.

    Args:
        stream: the frames, resized for the full look.
        lm: the model.
        cost: see `plan_looks`.
        first_share: see `plan_looks`.
        shrink: how much smaller the sides of frames are in the first look; 1 where the tower takes one size only.
        area: share of a frame's area that the second look takes; 1 where the tower takes one size only.
    """

    stream: FrameStream
    lm: VideoLM
    cost: float
    first_share: float
    shrink: float
    area: float
    _size: tuple[int, int] = field(default=(0, 0), init=False)  # of a frame of the full look, known once one was read

    @cached_property
    def plan(self) -> LookPlan:
        """The units of both looks. With sampling "near" the first look takes those that are cheap to decode."""
        per_unit, decoding = self.lm.family.frames_per_unit, None
        if self.lm.family.sampling == "near" and self.stream.decoding is not None:
            count = self.stream.decoding

            def decoding(unit: int) -> int:
                return count([unit * per_unit])

        return plan_looks(-(-self.stream.num_frames // per_unit), per_unit, self.cost, self.first_share, decoding)

    def frames_of(self, units: Sequence[int]) -> list[int]:
        """List the frames of some units, ascending; an odd last frame stands alone."""
        per_unit = self.lm.family.frames_per_unit
        frames = (unit * per_unit + i for unit in units for i in range(per_unit))
        return [frame for frame in frames if frame < self.stream.num_frames]

    def first(self) -> FrameStream:
        """Return the frames of the first look: the first frame of each of its units, as often as a unit has frames.

        Towers take a picture that way too.
        """
        per_unit = self.lm.family.frames_per_unit
        part = self._part([unit * per_unit for unit in self.plan.coarse])
        seconds = None if part.seconds is None else part.seconds.repeat_interleave(per_unit)

        def read() -> Iterator[Tensor]:
            return (self._shrunk(frames).repeat_interleave(per_unit, 0) for frames in part.read())

        return replace(part, num_frames=part.num_frames * per_unit, seconds=seconds, read=read)

    @property
    def region(self) -> Size:
        """Height and width of what the second look takes of a frame, in pixels. The first look must have been read."""
        return self._sizes[1]

    def second(self, views: Sequence[View]) -> FrameStream:
        """Return the frames of some units in full, or their regions."""
        part = self._part(self.frames_of([view.unit for view in views]))
        (height, width), side = self.region, self.lm.prompter.token_side
        if (height, width) == self._size:
            return part
        assert side is not None
        corners = [(view.row * side, view.column * side) for view in views for _ in self.frames_of([view.unit])]

        def read() -> Iterator[Tensor]:
            rest = iter(corners)
            for frames in part.read():
                yield torch.stack([frame[y : y + height, x : x + width] for frame, (y, x) in zip(frames, rest)])

        return replace(part, read=read)

    def full_clip(self) -> VideoClip:
        """Return the shape of the full look, without pixels. The first look must have been read."""
        shape = (self.stream.num_frames, *self._size, 3)
        clip = self.lm.prompter.clip(torch.empty(shape, dtype=torch.uint8, device="meta"), self.stream.seconds)
        return replace(clip, about=self.stream.about)

    def _part(self, frames: Sequence[int]) -> FrameStream:
        """Return some frames of the stream as a stream of their own."""
        seconds = None if self.stream.seconds is None else self.stream.seconds[list(frames)]
        decoded = None if self.stream.decoding is None else self.stream.decoding(frames)
        about = replace(self.stream.about, decoded=decoded)  # with the same list of warnings
        return FrameStream(len(frames), seconds, lambda: self.stream.frames_at(frames), about)

    def _shrunk(self, frames: Tensor) -> Tensor:
        """Make frames smaller."""
        self._size = frames.shape[1], frames.shape[2]
        return resize_to(frames, *self._sizes[0])

    @property
    def _sizes(self) -> tuple[Size, Size]:
        return look_sizes(*self._size, self.lm.prompter.token_side, self.shrink, self.area)


def stream_of_clip(clip: VideoClip) -> FrameStream:
    """Return the frames of a decoded clip as a stream, without an odd last one's copy."""
    count = len(clip.pixels) if clip.seconds is None else len(clip.seconds)
    return replace(stream_of(clip.pixels[:count], clip.seconds, lambda frames: frames), about=clip.about)
