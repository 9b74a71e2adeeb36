"""The order in which clips are trained on: shared by all processes, and taken up again where a kill left it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from lightning import Trainer
from torch.utils.data import DataLoader, Sampler

GROUPED = 50  # batches' worth of clips that are sorted by their form together


class EpochOrder(Sampler):
    """A permutation of its own each epoch, which every process takes its share of, all of one length.

    Step t of W processes with batches of B takes the same clips as step t of one process with batches of W * B.

    Args:
        size: number of clips.
        batch_size: B, of one process.
        seed: with the epoch, all that decides the order.
        trainer: says the epoch, and which process of how many this is; None: the first of one.
        forms: of each clip, sortable; clips of one form go into one batch where that can be. None: any do.
    """

    def __init__(
        self, size: int, batch_size: int, seed: int, trainer: Trainer | None, forms: Sequence[tuple] | None = None
    ) -> None:
        self.size, self.batch_size, self.seed, self.trainer, self.forms = size, batch_size, seed, trainer, forms
        self.rank, self.world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        self.resumed: tuple[int, int] | None = None  # epoch, and how many clips of it were trained on before a kill

    @property
    def epoch(self) -> int:
        """The trainer's."""
        return self.trainer.current_epoch if self.trainer else 0

    def __len__(self) -> int:
        return self.size // self.world

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        order = torch.randperm(self.size, generator=generator).tolist()
        if self.forms is not None:
            order = self._grouped(order, generator)
        mine = order[self.rank :: self.world][: len(self)]
        done = self.resumed[1] if self.resumed is not None and self.resumed[0] == self.epoch else 0
        return iter(mine[done:])

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
    """A loader of clips in an `EpochOrder`, whose place in the epoch Lightning keeps in its checkpoints."""

    def __init__(self, clips: Any, order: EpochOrder, collate: Callable, num_workers: int) -> None:
        super().__init__(clips, batch_size=order.batch_size, sampler=order, collate_fn=collate, num_workers=num_workers)
        self.order = order

    def state_dict(self) -> dict[str, int]:
        """How far the training is: what workers have read ahead does not count."""
        assert self.order.trainer is not None
        done = self.order.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return {"epoch": self.order.epoch, "steps": done, **self._form}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on there.

        Raises:
            ValueError: where there are other clips, or a step takes another number of them.
        """
        before = {name: state[name] for name in self._form}
        if before != self._form:
            was, now = (f"{form['clips']} clips, {form['clips_a_step']} a step" for form in (before, self._form))
            raise ValueError(
                f"the checkpoint is of a training on {was}; this one has {now} (data.batch_size times processes). "
                "In the middle of an epoch both must stay as they were"
            )
        self.order.resumed = state["epoch"], state["steps"] * self.order.batch_size

    @property
    def _form(self) -> dict[str, int]:
        return {"clips": self.order.size, "clips_a_step": self.order.batch_size * self.order.world}
