"""The order of training clips: shared by all processes, and continued after an interruption."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning import Trainer
from torch.utils.data import DataLoader, Sampler

from datamodules.processes import rank_and_world_size

GROUPED = 50  # number of batches whose clips are sorted by shape together


def batches_per_epoch(trainer: Trainer | None, full_epoch: int) -> int:
    """Return the number of batches that the trainer uses of an epoch of `full_epoch` batches."""
    limit = trainer.limit_train_batches if trainer else 1.0
    return min(full_epoch, limit) if isinstance(limit, int) else int(full_epoch * limit)


def epoch_and_position(trainer: Trainer | None, full_epoch: int) -> tuple[int, int]:
    """Return the current epoch, and the number of its batches that this run and earlier runs have done."""
    done = trainer.fit_loop.epoch_loop.batch_progress.total.ready if trainer else 0
    return divmod(done, batches_per_epoch(trainer, full_epoch))


class EpochOrder(Sampler):
    """Shuffles clips per epoch; all processes get equal shares of the same permutation.

    Step t of W processes with batches of B uses the same clips as step t of one process with batches of W * B. The
    epoch and its finished batches are computed from the trainer's step count, which includes earlier runs.

    Args:
        size: number of clips.
        batch_size: B, clips per step and process.
        seed: decides the order, together with the epoch.
        trainer: gives the training's progress, the rank and the number of processes; None: the start, one process.
        shapes: a sortable shape per clip; batches have clips of equal shape if possible. None: shapes do not matter.
    """

    def __init__(
        self, size: int, batch_size: int, seed: int, trainer: Trainer | None, shapes: Sequence[tuple] | None = None
    ) -> None:
        self.size, self.batch_size, self.seed, self.trainer, self.shapes = size, batch_size, seed, trainer, shapes
        self.rank, self.world = rank_and_world_size(trainer)

    @property
    def num_batches(self) -> int:
        """Number of batches per epoch in this process."""
        return batches_per_epoch(self.trainer, self._full_epoch)

    @property
    def _full_epoch(self) -> int:
        """Number of batches per epoch if the trainer sets no limit."""
        return -(-len(self) // self.batch_size)

    def __len__(self) -> int:
        return self.size // self.world

    def __iter__(self) -> Iterator[int]:
        epoch, done = epoch_and_position(self.trainer, self._full_epoch)
        generator = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
        order = torch.randperm(self.size, generator=generator).tolist()
        if self.shapes is not None:
            order = self._grouped(order, generator)
        share = order[self.rank :: self.world][: len(self)]
        return iter(share[done * self.batch_size :])

    def _grouped(self, order: list[int], generator: torch.Generator) -> list[int]:
        """Sort stretches of the order by shape, cut them into steps and shuffle these; a short last step stays last."""
        step = self.batch_size * self.world
        stretch, shapes = step * GROUPED, self.shapes or ()
        parts = [sorted(order[i : i + stretch], key=shapes.__getitem__) for i in range(0, self.size, stretch)]
        flat = [index for part in parts for index in part]
        steps = [flat[i : i + step] for i in range(0, self.size, step)]
        complete = self.size // step
        shuffled = [steps[i] for i in torch.randperm(complete, generator=generator).tolist()]
        return [index for clips in shuffled + steps[complete:] for index in clips]


class ResumableLoader(DataLoader):
    """A loader without a state: its sampler or data set knows the position from the trainer."""

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing."""
