"""The order of training clips: shared by all processes, and continued after an interruption."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning import Trainer
from torch.utils.data import DataLoader, Sampler

from datamodules.processes import rank_and_world_size

GROUPED = 50  # number of batches whose clips are sorted by shape together


def batches_an_epoch(trainer: Trainer | None, whole: int) -> int:
    """Return how many of `whole` batches per epoch the trainer uses."""
    limit = trainer.limit_train_batches if trainer else 1.0
    return min(whole, limit) if isinstance(limit, int) else int(whole * limit)


def place_in_training(trainer: Trainer | None, whole: int) -> tuple[int, int]:
    """Return the current epoch, and how many of its `whole` batches are done, earlier runs included."""
    had = trainer.fit_loop.epoch_loop.batch_progress.total.ready if trainer else 0
    return divmod(had, batches_an_epoch(trainer, whole))


class EpochOrder(Sampler):
    """Shuffles clips per epoch; all processes get equal shares of the same permutation.

    Step t of W processes with batches of B uses the same clips as step t of one process with batches of W * B. The
    epoch and its finished batches are computed from the trainer's step count, which includes earlier runs.

    Args:
        size: number of clips.
        batch_size: B, clips per step and process.
        seed: decides the order, together with the epoch.
        trainer: for the progress of the training, the rank and the number of processes; None: the start, one process.
        forms: a sortable shape per clip; batches have clips of equal shape if possible. None: shapes do not matter.
    """

    def __init__(
        self, size: int, batch_size: int, seed: int, trainer: Trainer | None, forms: Sequence[tuple] | None = None
    ) -> None:
        self.size, self.batch_size, self.seed, self.trainer, self.forms = size, batch_size, seed, trainer, forms
        self.rank, self.world = rank_and_world_size(trainer)

    @property
    def num_batches(self) -> int:
        """Number of batches per epoch in this process."""
        return batches_an_epoch(self.trainer, self._whole)

    @property
    def _whole(self) -> int:
        """Number of batches of all clips."""
        return -(-len(self) // self.batch_size)

    def __len__(self) -> int:
        return self.size // self.world

    def __iter__(self) -> Iterator[int]:
        epoch, done = place_in_training(self.trainer, self._whole)
        generator = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
        order = torch.randperm(self.size, generator=generator).tolist()
        if self.forms is not None:
            order = self._grouped(order, generator)
        share = order[self.rank :: self.world][: len(self)]
        return iter(share[done * self.batch_size :])

    def _grouped(self, order: list[int], generator: torch.Generator) -> list[int]:
        """Sort stretches of the order by shape, cut them into steps, shuffle them; a short last step stays last."""
        step = self.batch_size * self.world
        stretch, forms = step * GROUPED, self.forms or ()
        parts = [sorted(order[i : i + stretch], key=forms.__getitem__) for i in range(0, self.size, stretch)]
        flat = [index for part in parts for index in part]
        steps = [flat[i : i + step] for i in range(0, self.size, step)]
        whole = self.size // step
        shuffled = [steps[i] for i in torch.randperm(whole, generator=generator).tolist()]
        return [index for clips in shuffled + steps[whole:] for index in clips]


class ResumableLoader(DataLoader):
    """A loader without a state: its sampler or data set knows the position from the trainer."""

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing."""
