"""Scores and kept tokens laid out on the frames of a video: the data of all pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from flexselect.evidence.moments import edges_of
from flexselect.session import VideoSession
from flexselect.structures.answer import Answer
from flexselect.structures.frames import end_of, stream_of_file
from flexselect.structures.prompt import Selection, VideoClip

HEIGHT, WIDTH = 360, 640  # pixels: maximum size of a drawn frame


@dataclass(frozen=True)
class TokenMap:
    """Scores and kept tokens on the frames. Tokens outside the picture (newlines, delimiters) are left out.

    Shapes: U units of rows x columns tokens.
    """

    scores: np.ndarray  # float32 [U, rows, columns]
    kept: np.ndarray  # bool [U, rows, columns]
    kept_by_unit: np.ndarray  # int [U], including tokens outside the picture
    seconds: np.ndarray | None  # float64 [U], when each unit begins; None if unknown
    end: float | None  # seconds, where the part of the video ends that was read; None if unknown
    scored: bool  # whether scores depend on the content; false for controls (uniform, random)
    frames: Callable[[Sequence[int]], Iterator[np.ndarray]]  # reads the first frame of some units

    def __repr__(self) -> str:
        return f"TokenMap({self.num_units} units, {self.kept_by_unit.sum()} tokens kept)"

    @property
    def num_units(self) -> int:
        """The number of units U."""
        return len(self.scores)

    @property
    def best(self) -> np.ndarray:
        """The best score per unit, float32 [U]."""
        return self.scores.max((1, 2))

    def best_units(self, count: int) -> list[int]:
        """Return the units with the best scores, in the order of the video."""
        return sorted(np.argsort(-self.best, kind="stable")[:count].tolist())

    def kept_units(self, count: int) -> list[int]:
        """Return units with kept tokens in the picture, at most `count`, in the order of the video.

        They are those with the best scores; those of a control are evenly spread. If no unit has any, the best units.
        """
        units = np.flatnonzero(self.kept.any((1, 2)))
        if not len(units):
            return self.best_units(count)
        if not self.scored:
            return units[np.linspace(0, len(units) - 1, min(count, len(units))).round().astype(int)].tolist()
        return sorted(units[np.argsort(-self.best[units], kind="stable")[:count]].tolist())

    @property
    def edges(self) -> np.ndarray:
        """Start and end of the units on a time axis, float64 [U + 1]: seconds, or unit numbers if times are unknown."""
        begins = None if self.seconds is None else torch.from_numpy(self.seconds).double()
        return edges_of(begins, self.num_units, self.end).numpy()


def map_tokens(session: VideoSession, selection: Selection | Answer | None) -> TokenMap:
    """Lay a selection out on the frames of a session's video.

    Only frames that are drawn are read, when they are drawn.

    Args:
        session: the session. `session.video` must be the video's file; set it if the session was loaded from a file
            or a cache.
        selection: the result of `session.select`; or an answer, for its selection.

    Raises:
        ValueError: if there is no selection (dense), or the session does not know its video.
    """
    if isinstance(selection, Answer):
        selection = selection.selection
    if selection is None:
        raise ValueError("dense shows every token, there is nothing to draw: load with a selector")
    family, grid, total = session.engine.family, session.grid, len(selection.scores)
    if session.video is None and not isinstance(session.source, VideoClip):
        raise ValueError("this session does not know its video: set session.video to the file")
    kept = torch.zeros(total, dtype=torch.bool)
    places = selection.kept.cpu() - selection.shift  # see `Selection.shift`
    kept[places[places >= 0]] = True
    kept[total - selection.shift :] = True
    scores = selection.scores.float().cpu()
    seconds = None if session.seconds is None else session.seconds[:: family.frames_per_unit].cpu().numpy()
    return TokenMap(
        family.on_picture(scores, grid).numpy(),
        family.on_picture(kept, grid).numpy(),
        kept.view(grid[0], -1).sum(1).numpy(),
        seconds,
        end_of(session.sampling or {}),
        session.engine.scorer is None or session.engine.scorer.ranks_content,
        lambda units: unit_frames(session, units),
    )


def unit_frames(session: VideoSession, units: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the first frame of some units, ascending: uint8 [h, w, 3], at most `HEIGHT` x `WIDTH`."""
    family, video = session.engine.family, session.video
    firsts = [unit * family.frames_per_unit for unit in units]
    if video is None:
        assert isinstance(session.source, VideoClip)
        video = session.source.pixels
    if isinstance(video, Tensor):
        yield from (shrink(video[first : first + 1])[0].numpy() for first in firsts)
        return
    stream = stream_of_file(str(video), family.sample, shrink, family.reading(session.options))
    for frames in stream.frames_at(firsts):
        yield from frames.numpy()


def shrink(frames: Tensor) -> Tensor:
    """Shrink frames uint8 [t, h, w, 3] that are larger than `HEIGHT` x `WIDTH`."""
    height, width = frames.shape[1:3]
    scale = min(1.0, HEIGHT / height, WIDTH / width)
    if scale == 1:
        return frames.cpu()
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    smaller = interpolate(frames.permute(0, 3, 1, 2).float(), size, mode="bilinear", antialias=True)
    return smaller.round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu()


def stretch(tokens: np.ndarray, height: int, width: int) -> np.ndarray:
    """Spread values of tokens [rows, columns] over the pixels of a frame: [height, width]."""
    rows = np.arange(height) * tokens.shape[0] // height
    columns = np.arange(width) * tokens.shape[1] // width
    return tokens[rows][:, columns]
