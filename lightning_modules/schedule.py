"""The learning rate of both trainings: linear warm-up, then a cosine."""

from __future__ import annotations

import math
from typing import Any

from lightning import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(optimizer: Optimizer, steps: int, warmup: int, floor: float = 0.0) -> dict[str, Any]:
    """What `configure_optimizers` returns.

    Args:
        optimizer: with the highest learning rate.
        steps: of the whole training.
        warmup: of them.
        floor: share of the highest rate that the cosine ends at.
    """

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}


def total_steps(trainer: Trainer, batches: int) -> int:
    """Optimizer steps of a whole training.

    Not `trainer.estimated_stepping_batches`, which begins to read the data before a checkpoint says from where.

    Args:
        trainer: knows the epochs, and how many batches make a step.
        batches: of an epoch, of this process, as many as are taken.

    Raises:
        ValueError: for a training without an end.
    """
    known = [trainer.max_steps] if trainer.max_steps > 0 else []
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        known.append(math.ceil(batches / trainer.accumulate_grad_batches) * trainer.max_epochs)
    if not known or min(known) < 1:
        raise ValueError("the training must have a known length: set trainer.max_epochs or trainer.max_steps")
    return min(known)
