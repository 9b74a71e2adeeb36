"""Select tokens by their scores: top-k per frame set, merged in the order of the video. Needs no model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flexselect.structures.prompt import Selection


def select(scores: Tensor, sets: list[Tensor], budgets: Sequence[int]) -> Selection:
    """Keep the best tokens of each set (FlexSelect, section 3.2).

    Args:
        scores: [V], one score per visual token.
        sets: S disjoint index tensors [*] into the scores.
        budgets: number of tokens to keep per set; at most the set's size.

    Returns:
        The selection; `kept` is strictly ascending. Among equal scores the earlier token is kept, on every device.

    Raises:
        ValueError: if a score is NaN.
    """
    if torch.isnan(scores).any():
        count = int(torch.isnan(scores).sum())
        raise ValueError(
            f"{count} of {scores.numel()} token scores are NaN. The model overflowed in {scores.dtype}: "
            "load it in bfloat16 or float32, and check that its weights are finite."
        )
    by_length: dict[int, list[int]] = {}
    for number, tokens in enumerate(sets):
        by_length.setdefault(len(tokens), []).append(number)
    kept = list[Tensor]()
    for numbers in by_length.values():  # sets of equal length are sorted in one call
        together = torch.stack([sets[number] for number in numbers]).to(scores.device)  # [S, v]
        # Sorted stably, because topk breaks ties differently per device.
        best = together.gather(1, scores[together].sort(dim=1, descending=True, stable=True).indices)
        kept += [tokens[: budgets[number]] for tokens, number in zip(best, numbers)]
    return Selection(scores=scores.float(), kept=torch.cat(kept).sort().values, sets=sets)
