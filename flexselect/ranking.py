"""Agreement between two rankings of tokens, and a differentiable ranking."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

BLOCK = 2**20  # pairs of tokens per block: 4 MB in float32


def soft_rank(x: Tensor, temperature: float = 1e-4) -> Tensor:
    """Rank scores differentiably: r_i = sum_j sigmoid((x_i - x_j) / temperature) - 1/2; 0 is the smallest.

    Section 3.3 of FlexSelect, as released, but in linear memory: pairs are formed in blocks of rows, forward and
    backward, with the values and gradients of the plain formula. Time is quadratic in V. Two scores that differ by many
    temperatures get no gradient from each other.

    Args:
        x: [..., V], float32 or float64; half precision is computed in float32.
        temperature: in units of the scores.

    Returns:
        [..., V], in 0..V-1.

    Raises:
        ValueError: if the temperature is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    x = x if x.dtype == torch.float64 else x.float()
    if x.ndim > 1:
        return torch.stack([soft_rank(row, temperature) for row in x])
    return _SoftRank.apply(x, temperature)


def hard_rank(x: Tensor) -> Tensor:
    """Rank scores: float [..., V], 0 is the smallest; among equal scores the earlier one ranks lower."""
    ranks = x.argsort(dim=-1, stable=True).argsort(dim=-1)
    return ranks.to(torch.float64 if x.dtype == torch.float64 else torch.float32)


def spearman_loss(student: Tensor, teacher: Tensor, temperature: float = 1e-4) -> Tensor:
    """Return 1 - Spearman's correlation of a student's soft ranks with a teacher's ranks (section 3.3, as released).

    Args:
        student: scores [V] or [B, V], with gradients.
        teacher: scores of the same shape.
        temperature: see `soft_rank`.

    Returns:
        Scalar, mean over B: 0 for the same order, 1 for unrelated orders, 2 for the reverse order.

    If all student scores are equal, the loss is 1 and its gradient 0. If scores differ by many temperatures, only
    neighbours get gradients, so training is slow. All ranks have the same weight, also those of tokens that are never
    kept.

        student = torch.rand(1000, requires_grad=True)
        loss = spearman_loss(student, teacher)
        loss.backward()
    """
    if student.shape != teacher.shape:
        raise ValueError(f"student {list(student.shape)} and teacher {list(teacher.shape)} must have the same shape")
    return (1 - (_standard(soft_rank(student, temperature)) * _standard(hard_rank(teacher))).sum(-1)).mean()


def spearman(one: Tensor, other: Tensor) -> Tensor:
    """Return Spearman's correlation of two rankings [..., V], without gradients: [...], in -1..1."""
    return (_standard(hard_rank(one)) * _standard(hard_rank(other))).sum(-1)


def recall_at_k(scores: Tensor, relevant: Tensor, k: int) -> float:
    """Return the share of relevant tokens among the k best scores.

    The published curve (FlexSelect, figure 3) divides by k. There k is R, so both definitions agree.

    Args:
        scores: [V].
        relevant: int64 indices [R] of the relevant tokens, R >= 1.
        k: number of best scores, from 1 to V.
    """
    if relevant.numel() == 0:
        raise ValueError("recall needs at least one relevant token")
    if not 1 <= k <= scores.numel():
        raise ValueError(f"k must be between 1 and the {scores.numel()} scored tokens, got {k}")
    best = scores.topk(k).indices
    return torch.isin(relevant.to(best.device), best).float().mean().item()


def overlap_at_k(one: Tensor, other: Tensor, k: int) -> float:
    """Return the Jaccard index of the best k tokens of two rankings [V]: 0..1."""
    common = recall_at_k(one, other.topk(k).indices, k)
    return common / (2 - common)


def _standard(ranks: Tensor) -> Tensor:
    """Centre ranks and scale them to length 1."""
    centred = ranks - ranks.mean(-1, keepdim=True)
    return centred / centred.norm(dim=-1, keepdim=True).clamp_min(1e-12)


class _SoftRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, temperature: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.temperature = temperature
        ranks = torch.empty_like(x)  # filled in place: small tensors between large blocks would fragment the heap
        for rows, pairs in _pairs(x, temperature):
            ranks[rows] = pairs.sigmoid_().sum(1)
        return ranks - 0.5

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,), (grad,) = ctx.saved_tensors, grads
        by_rows, by_columns = torch.empty_like(x), torch.zeros_like(x)
        for rows, pairs in _pairs(x, ctx.temperature):
            sigmoid = pairs.sigmoid_()
            slopes = (grad[rows, None] * (1 - sigmoid)).mul_(sigmoid).div_(ctx.temperature)  # in autograd's order
            by_rows[rows] = slopes.sum(1)
            by_columns += slopes.sum(0)
        return by_rows - by_columns, None


def _pairs(x: Tensor, temperature: float) -> Iterator[tuple[slice, Tensor]]:
    """Yield blocks of rows i: the slice of rows, and (x_i - x_j) / temperature, [b, V]."""
    size = max(1, BLOCK // max(1, len(x)))
    for start in range(0, len(x), size):
        rows = slice(start, min(start + size, len(x)))
        yield rows, (x[rows, None] - x).div_(temperature)
