"""How many processor cores a process has, and how many workers it gets by default."""

from __future__ import annotations

import os
import sys

import torch


def cores() -> int:
    """Return the number of processor cores for this process.

    These are the cores it may run on (a container or SLURM may allow fewer than the machine has), shared with the other
    processes of the run on this machine. SLURM binds each process to separate cores, so they are not shared again.
    """
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    together = 1 if "SLURM_CPUS_PER_TASK" in os.environ else int(os.environ.get("LOCAL_WORLD_SIZE", _launched()))
    return max(1, allowed // together)


def _launched() -> int:
    """Return the number of processes that Lightning's launcher started on this machine."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    return min(world, torch.cuda.device_count() or world)


def workers(number: int | None) -> int:
    """Return the number of DataLoader workers; None: one for every four cores, from 1 to 4.

    Each worker holds a decoded clip in memory, so there are no more.
    """
    return max(1, min(4, cores() // 4)) if number is None else number
