"""What a selector's scores are trained with: losses of student scores against teacher scores, both [V] or [B, V]."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flexselect.ranking import spearman_loss

Loss = Callable[[Tensor, Tensor], Tensor]


def l1_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum of absolute differences of raw scores: how the released LLaVA-Video-7B selector was trained.

    Grows with V and with the scale of the scores; almost all of it is about tokens that are never kept.
    """
    return (_wide(student) - _wide(teacher)).abs().sum(-1).mean()


def l2_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum of squared differences plus the Spearman loss, as the released code for 72B."""
    return (_wide(student) - _wide(teacher)).square().sum(-1).mean() + spearman_loss(student, teacher)


def listwise_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the shares that tokens have of all attention to the clip (ListNet's, on scores).

    Scale-free, smooth, linear in V, and a token weighs as much as the teacher looks at it: it is about the few that
    are kept. 0 where student and teacher agree up to a factor. Scores must be positive, as attention is.

        loss = listwise_loss(student, teacher)
        loss.backward()
    """
    tiny = torch.finfo(torch.float32).tiny
    ours, theirs = (_wide(scores).clamp_min(tiny).log() for scores in (student, teacher))
    ours, theirs = (log - log.logsumexp(-1, keepdim=True) for log in (ours, theirs))
    return (theirs.exp() * (theirs - ours)).sum(-1).mean()


def silog_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Variance of log(student / teacher) over the tokens: the scale-invariant log error (arXiv 1406.2283).

    Scale-free and linear in V. All tokens count alike, by the ratio of their scores, so that the order among the many
    that lie close together is learnt too. 0 where student and teacher agree up to a factor. Scores must be positive,
    as attention is; those that underflow dominate it.

        loss = silog_loss(student, teacher)
        loss.backward()
    """
    tiny = torch.finfo(torch.float32).tiny
    ours, theirs = (_wide(scores).clamp_min(tiny).log() for scores in (student, teacher))
    return (ours - theirs).var(-1, correction=0).mean()


def _wide(scores: Tensor) -> Tensor:
    """Half precision is computed in float32."""
    return scores if scores.dtype == torch.float64 else scores.float()


LOSSES: dict[str, Loss] = {
    "silog": silog_loss,
    "listwise": listwise_loss,
    "spearman": spearman_loss,
    "l1": l1_loss,
    "l2": l2_loss,
}
