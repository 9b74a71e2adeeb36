"""What every data module of videos does the same way, whatever it reads."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Trainer


def rank_and_world_size(trainer: Trainer | None) -> tuple[int, int]:
    """Which process this is, and of how many; the only one without a trainer."""
    return (trainer.global_rank, trainer.world_size) if trainer else (0, 1)


def keep_frames_on_cpu(self: Any, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
    """A `transfer_batch_to_device` that leaves frames on the CPU: the tower takes them chunk by chunk."""
    return batch
