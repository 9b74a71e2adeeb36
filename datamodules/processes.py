"""Helpers of all data modules that yield videos."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

import torch
from lightning import Trainer


def rank_and_world_size(trainer: Trainer | None) -> tuple[int, int]:
    """Return this process's rank and the number of processes; 0 and 1 without a trainer."""
    return (trainer.global_rank, trainer.world_size) if trainer else (0, 1)


def keep_frames_on_cpu(self: Any, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
    """Leave frames on the CPU; the tower takes them in chunks. Replaces `transfer_batch_to_device`."""
    return batch


def start_worker(worker: int) -> None:
    """Let a worker end quietly. Passed to `DataLoader` as `worker_init_fn`.

    A worker hands tensors over in a background thread. If the run is stopped at that moment, the thread finds its
    connection closed and prints a traceback, although nothing is wrong. Errors of the data itself do not pass here:
    `DataLoader` raises them in the main process.

    Args:
        worker: number of the worker.
    """
    before = sys.excepthook

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, (ConnectionError, EOFError)):
            before(kind, error, trace)

    sys.excepthook = report
