"""Checkpoints of a selector's training: one to resume from, the best one, and its export."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from flexselect.commands.export import export
from lightning_modules.waiting import wait_for_others

log = logging.getLogger(__name__)
FOLDER, LAST, EXPORTED = "checkpoints", "last.ckpt", "selector"


def selector_checkpoints(root: Path, monitor: str, save_every: int) -> list[Callback]:
    """Return the callbacks of `fit`.

    Args:
        root: `--output_dir`; gets `checkpoints/last.ckpt`, `checkpoints/best.ckpt` and `selector/`.
        monitor: the metric for the best checkpoint; larger is better.
        save_every: write `last.ckpt` after this many steps; it is also written after each validation.
    """
    best = ModelCheckpoint(
        root / FOLDER, "best", monitor=monitor, mode="max", save_on_train_epoch_end=False, enable_version_counter=False
    )
    return [best, ResumePoint(root / FOLDER / LAST, save_every), ExportSelector(best, root)]


def check_save_every(steps: int) -> None:
    """Refuse a `save_every` below 1, before a model is loaded.

    Raises:
        ValueError: if it is below 1.
    """
    if steps < 1:
        raise ValueError(f"save_every must be at least 1 step, got {steps}; a large number saves after epochs alone")


class ResumePoint(Callback):
    """Callback that keeps one checkpoint to resume from, and logs where the training starts and stops.

    Args:
        path: the checkpoint file.
        every: save after this many steps, see `check_save_every`.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every
        self.step: int | None = None  # step of the last saved checkpoint
        self.started = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the step that the training resumes from."""
        self.started = True
        if trainer.global_step:
            self.step = trainer.global_step
            log.info("going on from step %d", trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Save within an epoch, and before each validation: an interrupted validation is done again."""
        due = trainer.global_step % self.every == 0 or validates_soon(trainer)
        if due and can_save(trainer) and trainer.global_step != self.step:
            self.save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after a validation within a training."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self.save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save at the end of an epoch without validation."""
        if self.step != trainer.global_step:
            self.save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Log which checkpoint there is to resume from."""
        if self.started:
            checkpoint = "nothing was saved yet" if self.step is None else f"{self.path} has step {self.step}"
            log.warning("stopped at step %d; %s; call again to go on", trainer.global_step, checkpoint)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log if the training was already complete."""
        if self.step is None and trainer.ckpt_path:
            log.warning(
                "nothing left to train: %s has the last step; give another --output_dir, or more epochs", self.path
            )

    def save(self, trainer: Trainer) -> None:
        """Write the checkpoint now."""
        self.step = trainer.global_step
        trainer.save_checkpoint(self.path)


def can_save(trainer: Trainer) -> bool:
    """Return whether a training can resume from here: between optimizer steps, with no validation due.

    Lightning skips a validation that is due between a checkpoint and the next step.
    """
    batch = trainer.fit_loop.epoch_loop.batch_idx
    return (batch + 1) % trainer.accumulate_grad_batches == 0 and not _validates_after(trainer, batch)


def validates_soon(trainer: Trainer) -> bool:
    """Return whether a validation is due before the end of the next optimizer step."""
    batch = trainer.fit_loop.epoch_loop.batch_idx
    return any(_validates_after(trainer, batch + more) for more in range(1, trainer.accumulate_grad_batches + 1))


def _validates_after(trainer: Trainer, batch: int) -> bool:
    """Return whether an epoch or a validation interval ends after this batch."""
    every, last = trainer.val_check_batch, trainer.num_training_batches - 1
    return batch >= last or (isinstance(every, int) and (batch + 1) % every == 0)


class ExportSelector(Callback):
    """Callback that exports the best checkpoint after the training; without validation, the last one.

    Args:
        best: the callback that tracks the best checkpoint.
        root: `--output_dir`.
    """

    def __init__(self, best: ModelCheckpoint, root: Path) -> None:
        self.best, self.root = best, root

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export the selector."""
        trainer.save_checkpoint(self.root / FOLDER / LAST)
        if trainer.is_global_zero:
            chosen = self.best.best_model_path or str(self.root / FOLDER / LAST)
            log.info(export(chosen, str(self.root / EXPORTED), overwrite=True).strip())
        wait_for_others(trainer)  # the selector is exported
