"""Learning rate schedule: linear warm-up, then a cosine."""

from __future__ import annotations

import math
from typing import Any

from lightning import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(optimizer: Optimizer, steps: int, warmup: int, floor: float = 0.0) -> dict[str, Any]:
    """Build the return value of `configure_optimizers`.

    Args:
        optimizer: its learning rate is the highest one.
        steps: number of steps of the whole training.
        warmup: number of warm-up steps.
        floor: the final learning rate, as a share of the highest.
    """

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}


def total_steps(trainer: Trainer, batches: int) -> int:
    """Return the number of optimizer steps of a whole training.

    `trainer.estimated_stepping_batches` would begin to read data before the checkpoint says where to continue.

    Args:
        trainer: for the number of epochs and of batches per step.
        batches: number of batches per epoch in this process.

    Raises:
        ValueError: if the training has no end.
    """
    limits = [trainer.max_steps] if trainer.max_steps > 0 else []
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        limits.append(math.ceil(batches / trainer.accumulate_grad_batches) * trainer.max_epochs)
    if not limits or min(limits) < 1:
        raise ValueError("the training must have a known length: set trainer.max_epochs or trainer.max_steps")
    return min(limits)
