"""A selection on the video it was made from: what every picture is drawn of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from flexselect.session import VideoSession
from flexselect.structures.frames import stream_of_file
from flexselect.structures.prompt import Selection, VideoClip

HEIGHT, WIDTH = 360, 640  # pixels: the most that a drawn frame has


@dataclass(frozen=True)
class Look:
    """Scores and kept tokens as they lie on the frames; tokens that lie on none (newlines, brackets) are left out.

    Shapes: U units of rows x columns tokens.
    """

    scores: np.ndarray  # float32 [U, rows, columns]
    kept: np.ndarray  # bool [U, rows, columns]
    kept_by_unit: np.ndarray  # int [U], tokens on no picture included
    seconds: np.ndarray | None  # float64 [U], when each unit begins; None where that is not known
    scored: bool  # whether scores mean something: a control's, uniform or random, do not
    frames: Callable[[Sequence[int]], Iterator[np.ndarray]]  # the first frame of each of some units, as in the video

    @property
    def num_units(self) -> int:
        """U."""
        return len(self.scores)

    @property
    def best(self) -> np.ndarray:
        """The best score of each unit, float32 [U]."""
        return self.scores.max((1, 2))

    def best_units(self, count: int) -> list[int]:
        """The units with the best scores, in the order of the video."""
        return sorted(np.argsort(-self.best, kind="stable")[:count].tolist())

    @property
    def edges(self) -> np.ndarray:
        """Where units begin and end along a time axis, float64 [U + 1]: seconds, or units."""
        if self.seconds is None:
            return np.arange(self.num_units + 1.0)
        step = np.diff(self.seconds).mean() if self.num_units > 1 else 1.0
        return np.append(self.seconds, self.seconds[-1] + step)


def look_at(session: VideoSession, selection: Selection | None) -> Look:
    """Lay a selection out on the video of a session.

    Frames are read from the video when they are drawn, and only those that are drawn.

    Args:
        session: the video; `session.video` says where its frames are (set it where a session was loaded or taken from
            a cache).
        selection: from `session.select` or an answer.

    Raises:
        ValueError: if there is no selection (dense), or the session does not know its video.
    """
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
    return Look(
        family.on_picture(scores, grid).numpy(),
        family.on_picture(kept, grid).numpy(),
        kept.view(grid[0], -1).sum(1).numpy(),
        seconds,
        session.engine.scorer is None or session.engine.scorer.ranks_content,
        lambda units: unit_frames(session, units),
    )


def unit_frames(session: VideoSession, units: Sequence[int]) -> Iterator[np.ndarray]:
    """The first frame of some units, ascending, as in the video: uint8 [h, w, 3], at most `HEIGHT` x `WIDTH`."""
    family, video = session.engine.family, session.video
    firsts = [unit * family.frames_per_unit for unit in units]
    if video is None:
        assert isinstance(session.source, VideoClip)
        video = session.source.pixels
    if isinstance(video, Tensor):
        yield from (shrunk(video[first : first + 1])[0].numpy() for first in firsts)
        return
    for frames in stream_of_file(str(video), family.sample, shrunk, session.options).frames_at(firsts):
        yield from frames.numpy()


def shrunk(frames: Tensor) -> Tensor:
    """Frames uint8 [t, h, w, 3], made smaller where they are larger than `HEIGHT` x `WIDTH`."""
    height, width = frames.shape[1:3]
    scale = min(1.0, HEIGHT / height, WIDTH / width)
    if scale == 1:
        return frames.cpu()
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    smaller = interpolate(frames.permute(0, 3, 1, 2).float(), size, mode="bilinear", antialias=True)
    return smaller.round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu()


def stretched(tokens: np.ndarray, height: int, width: int) -> np.ndarray:
    """Values of tokens [rows, columns] over the pixels they stand for: [height, width]."""
    rows = np.arange(height) * tokens.shape[0] // height
    columns = np.arange(width) * tokens.shape[1] // width
    return tokens[rows][:, columns]
