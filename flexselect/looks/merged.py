"""Put the tokens of both looks into the places of the full look."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from flexselect.looks.plan import LookPlan
from flexselect.scoring.frame_sets import split_budget
from flexselect.scoring.selection import select
from flexselect.structures.prompt import EncodedVideo, Selection, VideoClip
from flexselect.structures.sparse_video import SparseVideo


def still_shown(selection: Selection, units: Sequence[int], plan: LookPlan, count: int) -> Tensor:
    """Select the tokens of the first look that the answer still comes from, outside the second look.

    Args:
        selection: of the first look, with v scores.
        units: those of the second look.
        plan: the units of both looks.
        count: the most tokens.

    Returns:
        Their places in the first look, ascending: int64 [at most count].
    """
    per_unit = len(selection.scores) // len(plan.coarse)
    seen_again = torch.isin(torch.tensor(plan.coarse), torch.tensor(units))  # bool [C]
    rest = [tokens[~seen_again[tokens // per_unit]] for tokens in (each.cpu() for each in selection.sets)]
    rest = [tokens for tokens in rest if len(tokens)]
    if not rest or not count:
        return torch.empty(0, dtype=torch.long)
    return select(selection.scores.cpu(), rest, split_budget(count, [len(tokens) for tokens in rest])).kept


def cells(coarse: Sequence[int], full: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Match the tokens of a unit in the first look with those in the full look.

    Args:
        coarse: rows and columns of a unit in the first look.
        full: rows and columns in the full look, at least as many.

    Returns:
        For each token of the full look the one of the first look that covers it, int64 [rows * columns]; and for each
        token of the first look the one of the full look at its middle.
    """
    covering, middle = list[Tensor](), list[Tensor]()
    for few, many in zip(coarse, full):
        covering.append(torch.arange(many) * few // many)
        middle.append((2 * torch.arange(few) + 1) * many // (2 * few))
    return (
        (covering[0][:, None] * coarse[1] + covering[1]).flatten(),
        (middle[0][:, None] * full[1] + middle[1]).flatten(),
    )


def merge(
    first: EncodedVideo,
    seen: Selection,
    fine: EncodedVideo,
    chosen: Selection,
    units: Sequence[int],
    places: Tensor,
    plan: LookPlan,
    clip: VideoClip,
    context: Tensor,
) -> tuple[SparseVideo, Selection]:
    """Merge both looks: what was looked at twice has the tokens and scores of the second look alone.

    Args:
        first: the video of the first look.
        seen: its scores.
        fine: the units of the second look, as a video of their own.
        chosen: the selection among their tokens.
        units: their numbers in the full look, ascending: F of them.
        places: where their tokens are within a unit of the full look, int64 [F, *].
        plan: the units of both looks.
        clip: the shape of the full look, with V tokens.
        context: the tokens of the first look that are kept, int64 [*].

    Returns:
        The video and the selection, in the places of the full look. Tokens that were never seen have the lowest score.
    """
    per_unit, coarse, again = math.prod(clip.grid[1:]), torch.tensor(plan.coarse), torch.tensor(units)
    covering, middle = cells(first.grid[1:], clip.grid[1:])
    scores_by_unit = seen.scores.cpu().view(len(coarse), -1)
    fine_scores = chosen.scores.cpu().view(len(units), -1)
    least = float(min(scores_by_unit.min(), fine_scores.min()))
    rows = torch.full((clip.num_units, per_unit), -1, dtype=torch.int32)
    scores = torch.full((clip.num_units, per_unit), least)
    rows[coarse[:, None], middle] = torch.arange(scores_by_unit.numel(), dtype=torch.int32).view(len(coarse), -1)
    scores[coarse] = scores_by_unit[:, covering]
    rows[again[:, None], places] = len(first.features) + torch.arange(places.numel(), dtype=torch.int32).view_as(places)
    scores[again[:, None], places] = fine_scores
    fine_in_full = (again[:, None] * per_unit + places).flatten()  # where each token is in the full look
    coarse_in_full = (coarse[:, None] * per_unit + middle).flatten()
    kept = torch.cat([fine_in_full[chosen.kept.cpu()], coarse_in_full[context]]).sort().values
    once = ~torch.isin(coarse, again)
    sets = [fine_in_full[tokens.cpu()] for tokens in chosen.sets]
    for tokens in seen.sets:
        numbers = tokens[:: len(middle)].cpu() // len(middle)
        rest = coarse[numbers[once[numbers]]]
        sets += [(rest[:, None] * per_unit + torch.arange(per_unit)).flatten()] if len(rest) else []
    video = SparseVideo(
        first.prefix_ids,
        first.features,
        clip.grid,
        clip.seconds_per_unit,
        clip.delimiters,
        selector_text=first.selector_text,
        seconds=clip.seconds,
        about=clip.about,
        fine=fine.features,
        rows=rows.flatten(),
    )
    return video, Selection(scores.flatten(), kept, sets)
