"""How much of a video each look takes. Works on numbers only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LookPlan:
    """The units of both looks, numbered as in the full look."""

    num_units: int  # U
    every: int  # the first look takes the units 0, every, 2 * every, ...
    fine: int  # the most units of the second look

    @property
    def coarse(self) -> range:
        """The units of the first look."""
        return range(0, self.num_units, self.every)

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
        for place in sorted(range(len(distance)), key=lambda place: -distance[place]):
            centre = self.coarse[place]
            around = range(max(0, centre - self.every + 1), min(self.num_units, centre + self.every))
            chosen |= dict.fromkeys(sorted(around, key=lambda unit: abs(unit - centre)))
            if len(chosen) >= self.fine:
                break
        return sorted(list(chosen)[: self.fine])


def plan_looks(num_units: int, cost: float, first_share: float) -> LookPlan:
    """Divide a cost between the two looks.

    The first look takes every n-th unit, with the smallest n that stays within its share of the cost. The second one
    has what is left, but at least one unit.

    Args:
        num_units: U, the number of units of the full look.
        cost: units of both looks together, as a share of U, above 0; 2: everything is looked at twice.
        first_share: share of the cost for the first look, between 0 and 1.
    """
    every = min(num_units, max(1, math.ceil(1 / (cost * first_share) - 1e-9)))
    first = math.ceil(num_units / every)
    return LookPlan(num_units, every, min(num_units, max(1, math.floor(cost * num_units + 1e-9) - first)))
