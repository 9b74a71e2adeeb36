"""Wait for the other processes of a run."""

from __future__ import annotations

import time

import torch
from lightning import Trainer


def wait_for_others(trainer: Trainer) -> None:
    """Wait until all processes of the run are here, which may be hours later, or until a signal ends the wait.

    In Lightning's own barrier a process waits inside C++, where Python does not handle signals.
    """
    if trainer.world_size == 1:  # it may run within another program's group of processes
        return
    cards = [trainer.strategy.root_device.index] if torch.distributed.get_backend() == "nccl" else None
    arrival = torch.distributed.barrier(async_op=True, device_ids=cards)
    while not arrival.is_completed():
        time.sleep(0.05)
    arrival.wait()  # raises what went wrong in between
