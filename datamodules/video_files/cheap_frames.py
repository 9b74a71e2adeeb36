"""Choose frames that are cheap to decode, each near the frame that the sampling rule wants.

Decoding begins at a key frame, and takes every reference frame up to the one that is shown. So a key frame costs one
frame, and the last frame before the next key frame costs all reference frames between them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

Array = np.ndarray
_Link = Any  # the frames of one group, and the link to those of the groups before: (link, frames); None: none


@dataclass(frozen=True)
class DecodingCosts:
    """Costs of decoding the frames of a video, counted in frames. All arrays are int64 [F], one number per frame."""

    groups: Array  # number of the key frame that decoding begins at, ascending; a group's frames are decoded together
    references: Array  # number of reference frames that are decoded for the frame, itself included if it is one
    extra: Array  # 1 if no other frame is built on the frame, else 0

    def decoded(self, frames: Sequence[int]) -> int:
        """Return how many frames are decoded to show some frames, given by their indices."""
        chosen = np.asarray(frames, dtype=np.int64)
        furthest = np.zeros(self.groups[-1] + 1, dtype=np.int64)
        np.maximum.at(furthest, self.groups[chosen], self.references[chosen])
        return int(furthest.sum() + self.extra[chosen].sum())


def choose_cheap_frames(
    wanted: Sequence[int],
    seconds: Array,
    tolerance: float,
    costs: DecodingCosts,
    first: int = 0,
    last: int | None = None,
) -> list[int]:
    """Replace each wanted frame by one nearby, so that as few frames as possible are decoded.

    A frame moves by at most `tolerance`, and stays between the wanted frames before and after it. No frame is taken
    twice: if key frames are rarer than wanted frames, a key frame serves one of them, and the others take what then
    costs least. Of all choices that decode as few frames, the one is taken that moves frames least in sum. The wanted
    frames themselves are one of the choices, so the result never decodes more frames than they do.

    Args:
        wanted: indices of the wanted frames, ascending.
        seconds: when each frame is shown, float [F], ascending.
        tolerance: seconds by which a frame may move.
        costs: what decoding takes.
        first: index of the first frame that may be taken.
        last: index after the last frame that may be taken; None: the number of frames.

    Returns:
        As many indices as are wanted, ascending.
    """
    return _Choice(wanted, seconds, tolerance, costs, first, len(seconds) if last is None else last).best()


class _Choice:
    """A dynamic programme over groups; its state is how many wanted frames are served so far.

    The frames that may serve a wanted one are its window. Windows overlap only with their neighbours, so a group has
    few states. Inside a group, `_serve` tries each number of reference frames that may pay.

    Values are one number: decoded frames times `unit`, plus seconds moved; `unit` exceeds any sum of seconds.
    """

    def __init__(
        self, wanted: Sequence[int], seconds: Array, tolerance: float, costs: DecodingCosts, first: int, last: int
    ) -> None:
        places = np.asarray(wanted, dtype=np.int64)
        self.times, self.seconds, self.costs = seconds[places], seconds, costs
        before = np.concatenate([[first - 1], places[:-1]])
        after = np.concatenate([places[1:], [last]])
        reach = tolerance + 1e-9  # seconds are rounded
        self.starts = np.maximum(np.searchsorted(seconds, self.times - reach, "left"), before + 1)  # of windows
        self.ends = np.minimum(np.searchsorted(seconds, self.times + reach, "right"), after)
        self.unit = 1 + 2 * float(seconds[-1] - seconds[0])

    def best(self) -> list[int]:
        """Return the best choice."""
        states: dict[int, tuple[float, _Link]] = {0: (0.0, None)}  # by number of wanted frames that are served
        edges = np.flatnonzero(np.diff(self.costs.groups, prepend=-1, append=self.costs.groups[-1] + 1)).tolist()
        for begin, end in pairwise(edges):  # one group's frames
            least = int(np.searchsorted(self.ends, end, "right"))  # their windows end here, so they must be served now
            most = int(np.searchsorted(self.starts, end, "left"))  # the windows of others begin later
            after: dict[int, tuple[float, _Link]] = {}
            for served, (value, link) in states.items():
                for until in range(max(served, least), most + 1):
                    more, frames = self._serve(served, until, begin, end) if until > served else (0.0, [])
                    if value + more < after.get(until, (math.inf, None))[0]:
                        after[until] = value + more, (link, frames) if frames else link
            states = after
        link, chosen = states[len(self.times)][1], list[int]()
        while link is not None:
            link, frames = link
            chosen = frames + chosen
        return chosen

    def _serve(self, served: int, until: int, begin: int, end: int) -> tuple[float, list[int]]:
        """Serve wanted frames [served, until) from frames [begin, end) of one group; return the value and the frames.

        The group is decoded up to a number of reference frames: at least so many that each window has a frame. More of
        them cost one each, and save at most one per frame that is not a reference frame; so few numbers are tried.
        """
        starts, ends = np.maximum(self.starts[served:until], begin), np.minimum(self.ends[served:until], end)
        if bool((starts >= ends).any()):
            return math.inf, []
        windows = list(zip(starts.tolist(), ends.tolist()))
        references = self.costs.references
        limit = max(int(references[start:stop].min()) for start, stop in windows)
        top = max(int(references[start:stop].max()) for start, stop in windows)
        value, frames = math.inf, list[int]()
        while limit <= top and limit * self.unit <= value:
            more, others = self._assign(windows, self.times[served:until], limit)
            if limit * self.unit + more < value:
                value, frames = limit * self.unit + more, others
            limit += 1
        return value, frames

    def _assign(self, windows: list[tuple[int, int]], times: Array, limit: int) -> tuple[float, list[int]]:
        """Give each window a frame of its own that `limit` reference frames suffice for, ascending."""
        values = list[Array]()  # of each window: the least value if the window takes this frame
        for (start, stop), time in zip(windows, times):
            frames = slice(start, stop)
            moved = self.costs.extra[frames] * self.unit + np.abs(self.seconds[frames] - time)
            value = np.where(self.costs.references[frames] <= limit, moved, math.inf)
            if values:
                earlier, last = windows[len(values) - 1]
                before = np.minimum(np.arange(start, stop), last) - earlier  # frames of the window before to choose of
                lowest = np.concatenate([[math.inf], np.minimum.accumulate(values[-1])])
                value = value + lowest[before]
            values.append(value)
        total = float(values[-1].min())
        if total == math.inf:
            return total, []
        chosen, stop = list[int](), windows[-1][1]
        for (start, _), value in zip(reversed(windows), reversed(values)):
            stop = start + int(value[: stop - start].argmin())
            chosen.append(stop)
        return total, chosen[::-1]
