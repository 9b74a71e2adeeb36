"""Losses of a selector's scores against the teacher's scores, both [V] or [B, V]."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flexselect.ranking import spearman_loss

Loss = Callable[[Tensor, Tensor], Tensor]


def l1_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the sum of absolute differences of raw scores; the released LLaVA-Video-7B selector was trained with it.

    It grows with V and with the scale of the scores. Tokens that are never kept make up almost the whole sum.
    """
    return (_float32(student) - _float32(teacher)).abs().sum(-1).mean()


def l2_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the sum of squared differences plus the Spearman loss, as in the released code for 72B."""
    return (_float32(student) - _float32(teacher)).square().sum(-1).mean() + spearman_loss(student, teacher)


def listwise_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the Kullback-Leibler divergence between the tokens' shares of attention (ListNet's loss, on scores).

    It is scale-free, smooth and linear in V. A token weighs as much as the teacher attends to it, so the few kept
    tokens dominate. It is 0 if student and teacher agree up to a factor. Scores must be positive, as attention is.

        loss = listwise_loss(student, teacher)
        loss.backward()
    """
    tiny = torch.finfo(torch.float32).tiny
    student_log, teacher_log = (_float32(scores).clamp_min(tiny).log() for scores in (student, teacher))
    student_log, teacher_log = (log - log.logsumexp(-1, keepdim=True) for log in (student_log, teacher_log))
    return (teacher_log.exp() * (teacher_log - student_log)).sum(-1).mean()


def silog_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the variance of log(student / teacher) over the tokens: the scale-invariant log error (arXiv 1406.2283).

    It is scale-free and linear in V. All tokens weigh the same, by the ratio of their scores, so it also learns the
    order of the many tokens with similar scores. It is 0 if student and teacher agree up to a factor. Scores must be
    positive, as attention is. Scores near underflow dominate it.

        loss = silog_loss(student, teacher)
        loss.backward()
    """
    tiny = torch.finfo(torch.float32).tiny
    student_log, teacher_log = (_float32(scores).clamp_min(tiny).log() for scores in (student, teacher))
    return (student_log - teacher_log).var(-1, correction=0).mean()


def _float32(scores: Tensor) -> Tensor:
    """Convert half precision to float32; keep float64."""
    return scores if scores.dtype == torch.float64 else scores.float()


LOSSES: dict[str, Loss] = {
    "silog": silog_loss,
    "listwise": listwise_loss,
    "spearman": spearman_loss,
    "l1": l1_loss,
    "l2": l2_loss,
}
