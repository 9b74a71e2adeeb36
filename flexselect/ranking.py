"""How well one ranking of tokens agrees with another."""

from __future__ import annotations

import torch
from torch import Tensor


def recall_at_k(scores: Tensor, relevant: Tensor, k: int) -> float:
    """Share of the relevant tokens found among the k best scores.

    The published curve divides by k (FlexSelect, figure 3); with k = number of relevant tokens, as there, both agree.

    Args:
        scores: [V].
        relevant: int64 indices [R] of the tokens that matter, R >= 1.
        k: how many tokens are looked at, from 1 to V.
    """
    if relevant.numel() == 0:
        raise ValueError("recall needs at least one relevant token")
    if not 1 <= k <= scores.numel():
        raise ValueError(f"k must be between 1 and the {scores.numel()} scored tokens, got {k}")
    best = scores.topk(k).indices
    return torch.isin(relevant.to(best.device), best).float().mean().item()
