"""Regions: the parts of frames that the second look sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from flexselect.looks.merged import cells


class View(NamedTuple):
    """One unit of the second look: its number, and where the region begins that is seen of it."""

    unit: int
    row: int = 0  # of tokens
    column: int = 0


def look_at(
    units: Sequence[int],
    scores: Tensor,
    coarse: Sequence[int],
    grid: Sequence[int],
    full: Sequence[int],
    size: tuple[int, int],
) -> list[View]:
    """Choose a region of each unit: where scores are highest in the nearest unit of the first look.

    Args:
        units: units of the second look.
        scores: of the first look, float [C * rows * columns].
        coarse: the units of the first look, ascending, C of them.
        grid: rows and columns of a unit in the first look.
        full: rows and columns in the full look.
        size: rows and columns of a region; those of the full look: all of it.
    """
    if tuple(full) == size:
        return [View(unit) for unit in units]
    covering, _ = cells(grid, full)
    maps = scores.float().cpu().view(len(coarse), -1)[:, covering].view(len(coarse), 1, *full)
    inside = avg_pool2d(maps, size, stride=1)  # [C, 1, rows, columns]: of each region that a frame has
    best, columns = inside.flatten(1).argmax(1).tolist(), inside.shape[-1]
    places = torch.tensor(coarse, dtype=torch.float64)
    nearest = torch.bucketize(torch.tensor(units, dtype=torch.float64), (places[1:] + places[:-1]) / 2).tolist()
    return [View(unit, *divmod(best[place], columns)) for unit, place in zip(units, nearest)]


def places_of(views: Sequence[View], columns: int, size: tuple[int, int]) -> Tensor:
    """Return the places of the tokens of views within their units: int64 [F, rows * columns of a region].

    Args:
        views: F views.
        columns: columns of a whole unit.
        size: rows and columns of a region.
    """
    rows, across = (torch.arange(length) for length in size)
    corners = torch.tensor([view.row * columns + view.column for view in views])
    return corners[:, None] + (rows[:, None] * columns + across).flatten()
