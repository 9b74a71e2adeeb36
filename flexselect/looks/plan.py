"""How much of a video each look takes. Works on numbers only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LookPlan:
    """The units of both looks, numbered as in the full look."""

    num_units: int  # U
    every: int  # the first look takes one unit in so many
    fine: int  # the most units of the second look
    coarse: tuple[int, ...]  # the units of the first look, ascending

    def choose(self, distance: Sequence[float]) -> list[int]:
        """Choose the units of the second look: those around what stands out in the first one.

        Around a unit of the first look lie those up to its neighbours there. The most prominent unit comes first, what
        is near it before what is far, until the second look is full.

        Args:
            distance: how far each unit of the first look stands out, see `prominence`.

        Returns:
            At most `fine` units, ascending.
        """
        chosen: dict[int, None] = {}
        edges = (-1, *self.coarse, self.num_units)
        for place in sorted(range(len(distance)), key=lambda place: -distance[place]):
            before, centre, after = edges[place : place + 3]
            around = range(before + 1, after)
            chosen |= dict.fromkeys(sorted(around, key=lambda unit: abs(unit - centre)))
            if len(chosen) >= self.fine:
                break
        return sorted(list(chosen)[: self.fine])


def plan_looks(
    num_units: int, per_unit: int, cost: float, first_share: float, decoding: Callable[[int], int] | None = None
) -> LookPlan:
    """Divide a cost between the two looks.

    The first look takes one frame of one unit in n, with the smallest n that stays within its share of the cost. The
    second one has what is left, but at least one unit.

    Args:
        num_units: U, the number of units of the full look.
        per_unit: frames per unit.
        cost: frames of both looks together, as a share of the full look's, above 0; 2: everything is looked at twice.
        first_share: share of the cost for the first look, between 0 and 1.
        decoding: how many frames are decoded to show a unit: of n units the first look takes the cheapest. None: it
            takes the first of them, so that its units are evenly spaced.
    """
    every = min(num_units, max(1, math.ceil(1 / (cost * first_share * per_unit) - 1e-9)))
    groups = [range(first, min(first + every, num_units)) for first in range(0, num_units, every)]
    coarse = tuple(group[0] if decoding is None else min(group, key=decoding) for group in groups)
    left = math.floor(cost * num_units - len(coarse) / per_unit + 1e-9)
    return LookPlan(num_units, every, min(num_units, max(1, left)), coarse)


Size = tuple[int, int]  # height and width in pixels


def look_sizes(height: int, width: int, side: int | None, shrink: float, area: float) -> tuple[Size, Size]:
    """Return the size of a frame in the first look, and of what the second one takes of a frame.

    If a frame of the first look is one token, it says nothing about regions, and the second one takes whole frames.

    Args:
        height: of a frame of the full look, in pixels.
        width: likewise.
        side: of a token, in pixels; None: the tower takes frames of one size only.
        shrink: see `first_look_shrink`.
        area: see `second_look_area`.
    """
    whole = height, width
    first = _scaled(whole, side, 1 / shrink)
    return first, whole if first == (side, side) else _scaled(whole, side, math.sqrt(area))


def _scaled(size: Size, side: int | None, scale: float) -> Size:
    """Scale a size, to multiples of a token's side."""
    if side is None or scale == 1:
        return size
    rows, columns = (max(1, round(length * scale / side)) for length in size)
    return rows * side, columns * side
