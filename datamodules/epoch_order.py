"""The order in which clips are trained on: shared by all processes, and taken up again where a kill left it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning import Trainer
from torch.utils.data import DataLoader, Sampler

from datamodules.processes import rank_and_world_size

GROUPED = 50  # batches' worth of clips that are sorted by their form together


def batches_an_epoch(trainer: Trainer | None, whole: int) -> int:
    """Of `whole` batches, those that the trainer takes."""
    limit = trainer.limit_train_batches if trainer else 1.0
    return min(whole, limit) if isinstance(limit, int) else int(whole * limit)


def place_in_training(trainer: Trainer | None, whole: int) -> tuple[int, int]:
    """Which epoch it is, and how many of its `whole` batches were had, in earlier runs too."""
    had = trainer.fit_loop.epoch_loop.batch_progress.total.ready if trainer else 0
    return divmod(had, batches_an_epoch(trainer, whole))


class EpochOrder(Sampler):
    """A permutation of its own each epoch, which every process takes its share of, all of one length.

    Step t of W processes with batches of B takes the same clips as step t of one process with batches of W * B. Which
    epoch it is, and how much of it is done, follows from the batches that the trainer has had, in earlier runs too.

    Args:
        size: number of clips.
        batch_size: B, of one process.
        seed: with the epoch, all that decides the order.
        trainer: knows how far the training is, and which process of how many this is; None: the begin, one process.
        forms: of each clip, sortable; clips of one form go into one batch where that can be. None: any do.
    """

    def __init__(
        self, size: int, batch_size: int, seed: int, trainer: Trainer | None, forms: Sequence[tuple] | None = None
    ) -> None:
        self.size, self.batch_size, self.seed, self.trainer, self.forms = size, batch_size, seed, trainer, forms
        self.rank, self.world = rank_and_world_size(trainer)

    @property
    def num_batches(self) -> int:
        """Of an epoch, of this process."""
        return batches_an_epoch(self.trainer, self._whole)

    @property
    def _whole(self) -> int:
        """Batches of all clips."""
        return -(-len(self) // self.batch_size)

    def __len__(self) -> int:
        return self.size // self.world

    def __iter__(self) -> Iterator[int]:
        epoch, done = place_in_training(self.trainer, self._whole)
        generator = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
        order = torch.randperm(self.size, generator=generator).tolist()
        if self.forms is not None:
            order = self._grouped(order, generator)
        mine = order[self.rank :: self.world][: len(self)]
        return iter(mine[done * self.batch_size :])

    def _grouped(self, order: list[int], generator: torch.Generator) -> list[int]:
        """Sorted by form in stretches, cut into steps, and the steps shuffled; a last short step stays last."""
        step = self.batch_size * self.world
        stretch, forms = step * GROUPED, self.forms or ()
        parts = [sorted(order[i : i + stretch], key=forms.__getitem__) for i in range(0, self.size, stretch)]
        flat = [index for part in parts for index in part]
        steps = [flat[i : i + step] for i in range(0, self.size, step)]
        whole = self.size // step
        shuffled = [steps[i] for i in torch.randperm(whole, generator=generator).tolist()]
        return [index for clips in shuffled + steps[whole:] for index in clips]


class ResumableLoader(DataLoader):
    """A loader whose sampler or data set knows its place. Lightning asks for a state to keep: there is none."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to do."""
