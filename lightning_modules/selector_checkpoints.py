"""What a selector's training leaves behind: a checkpoint to go on from, the best one, and that one exported."""

from __future__ import annotations

import logging
from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from flexselect.checkpoints.export import export

log = logging.getLogger(__name__)
FOLDER, LAST, EXPORTED = "checkpoints", "last.ckpt", "selector"


def selector_checkpoints(root: Path, monitor: str, save_every: int) -> list[Callback]:
    """Callbacks of `fit`.

    Args:
        root: `--output_dir`; gets `checkpoints/last.ckpt`, `checkpoints/best.ckpt` and `selector/`.
        monitor: the metric that says which is best, the larger the better.
        save_every: steps between two writings of `last.ckpt`.
    """
    folder = root / FOLDER
    best = ModelCheckpoint(
        folder, "best", monitor=monitor, mode="max", save_on_train_epoch_end=False, enable_version_counter=False
    )
    last = ModelCheckpoint(folder, "last", every_n_train_steps=save_every, enable_version_counter=False)
    return [best, last, ExportSelector(best, folder / LAST, root / EXPORTED)]


class ExportSelector(Callback):
    """Exports the best checkpoint when the training is done, or the last where nothing was validated.

    Args:
        best: knows which is best.
        last: written once more at the end.
        output: folder of the exported selector.
    """

    def __init__(self, best: ModelCheckpoint, last: Path, output: Path) -> None:
        self.best, self.last, self.output = best, last, output

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write both."""
        trainer.save_checkpoint(self.last)
        if trainer.is_global_zero:
            chosen = self.best.best_model_path or str(self.last)
            export(chosen, str(self.output), overwrite=True)
            log.info("%s is exported to %s", chosen, self.output)
        trainer.strategy.barrier("the selector is exported")
