"""Helpers of all data modules that yield videos."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Trainer


def rank_and_world_size(trainer: Trainer | None) -> tuple[int, int]:
    """Return this process's rank and the number of processes; 0 and 1 without a trainer."""
    return (trainer.global_rank, trainer.world_size) if trainer else (0, 1)


def keep_frames_on_cpu(self: Any, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
    """Leave frames on the CPU; the tower takes them in chunks. Replaces `transfer_batch_to_device`."""
    return batch
