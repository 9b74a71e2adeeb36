"""The learning rate of both trainings: linear warm-up, then a cosine."""

from __future__ import annotations

import math
from typing import Any

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
