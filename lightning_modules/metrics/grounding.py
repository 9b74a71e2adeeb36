"""Metrics of moments against annotated ones, over all processes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from flexselect.evaluation.grounding import THRESHOLDS

NAMES = ("moment_miou", *(f"moment_r1_{least}" for least in THRESHOLDS), "moment_pointing")


class GroundingMetrics(Metric):
    """Mean IoU, recall at 1 by threshold of IoU, and pointing accuracy of the first moments of answers."""

    sums: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(len(NAMES), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("weight", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, iou: float, pointing: float, weight: float = 1.0) -> None:
        """Add the first moment of an answer, see `flexselect.evaluation.grounding.ground`."""
        values = [iou, *(float(iou >= least) for least in THRESHOLDS), float(pointing)]
        self.sums += weight * torch.tensor(values, dtype=self.sums.dtype, device=self.sums.device)
        self.weight += weight

    def compute(self) -> dict[str, Tensor]:
        """Return the means by name."""
        return dict(zip(NAMES, (self.sums / self.weight).float()))
