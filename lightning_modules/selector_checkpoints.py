"""What a selector's training leaves behind: a checkpoint to go on from, the best one, and that one exported."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from flexselect.commands.export import export

log = logging.getLogger(__name__)
FOLDER, LAST, EXPORTED = "checkpoints", "last.ckpt", "selector"


def selector_checkpoints(root: Path, monitor: str, save_every: int) -> list[Callback]:
    """Callbacks of `fit`.

    Args:
        root: `--output_dir`; gets `checkpoints/last.ckpt`, `checkpoints/best.ckpt` and `selector/`.
        monitor: the metric that says which is best, the larger the better.
        save_every: steps between two writings of `last.ckpt`; it is written after each validation, too.
    """
    best = ModelCheckpoint(
        root / FOLDER, "best", monitor=monitor, mode="max", save_on_train_epoch_end=False, enable_version_counter=False
    )
    return [best, ResumePoint(root / FOLDER / LAST, save_every), ExportSelector(best, root)]


def check_save_every(steps: int) -> None:
    """Refuse what cannot be counted, before a model is loaded.

    Raises:
        ValueError: for fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"save_every must be at least 1 step, got {steps}; a large number saves after epochs alone")


class ResumePoint(Callback):
    """Keeps one checkpoint to go on from, and says where the training begins and stops.

    Args:
        path: of the checkpoint.
        every: steps, see `check_save_every`.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every
        self.step: int | None = None  # of the checkpoint
        self.began = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say from where."""
        self.began = True
        if trainer.global_step:
            self.step = trainer.global_step
            log.info("going on from step %d", trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Within an epoch, and before each validation: one that is stopped is done again."""
        due = trainer.global_step % self.every == 0 or validates_soon(trainer)
        if due and can_save(trainer) and trainer.global_step != self.step:
            self.save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After a validation within a training."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self.save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Where nothing is validated."""
        if self.step != trainer.global_step:
            self.save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say what is there to go on from."""
        if self.began:
            there = "nothing was saved yet" if self.step is None else f"{self.path} is of step {self.step}"
            log.warning("stopped at step %d; %s; call again to go on", trainer.global_step, there)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A training that was done before is not begun."""
        if self.step is None and trainer.ckpt_path:
            log.warning(
                "nothing left to train: %s is of the last step; give another --output_dir, or more epochs", self.path
            )

    def save(self, trainer: Trainer) -> None:
        """Write it now."""
        self.step = trainer.global_step
        trainer.save_checkpoint(self.path)


def can_save(trainer: Trainer) -> bool:
    """Whether a training can be gone on with from here: no gradient is half there, and no validation comes next.

    Lightning does not make up for a validation between a checkpoint and the step after it.
    """
    batch = trainer.fit_loop.epoch_loop.batch_idx
    return (batch + 1) % trainer.accumulate_grad_batches == 0 and not _validates_after(trainer, batch)


def validates_soon(trainer: Trainer) -> bool:
    """Whether a validation comes before the next step but one."""
    batch = trainer.fit_loop.epoch_loop.batch_idx
    return any(_validates_after(trainer, batch + more) for more in range(1, trainer.accumulate_grad_batches + 1))


def _validates_after(trainer: Trainer, batch: int) -> bool:
    """Whether an epoch ends, or is validated, after so many batches and one."""
    every, last = trainer.val_check_batch, trainer.num_training_batches - 1
    return batch >= last or (isinstance(every, int) and (batch + 1) % every == 0)


class ExportSelector(Callback):
    """Exports the best checkpoint when the training is done, or the last where nothing was validated.

    Args:
        best: knows which is best.
        root: `--output_dir`.
    """

    def __init__(self, best: ModelCheckpoint, root: Path) -> None:
        self.best, self.root = best, root

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it."""
        trainer.save_checkpoint(self.root / FOLDER / LAST)
        if trainer.is_global_zero:
            chosen = self.best.best_model_path or str(self.root / FOLDER / LAST)
            log.info(export(chosen, str(self.root / EXPORTED), overwrite=True).strip())
        trainer.strategy.barrier("the selector is exported")
