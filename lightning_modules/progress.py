"""Progress of a run on standard error: a bar on a terminal; elsewhere a line now and then."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from tqdm import tqdm

from flexselect.engine.pace import Pace
from lightning_modules.video_qa import VideoQA

log = logging.getLogger(__name__)


def progress_callback() -> ProgressBar:
    """Return what shows the progress of a run: bars if standard error is a terminal, else lines."""
    return ProgressBars() if sys.stderr.isatty() else ProgressLines()


class Questions:
    """Count videos and errors of a run's rows."""

    def __init__(self) -> None:
        self.videos: set[str] = set()
        self.errors = 0
        self.total: int | None = None  # number of videos, counted once

    def add(self, trainer: Trainer, row: dict[str, Any]) -> str:
        """Count one row; format the counts."""
        self.videos.add(row["video"])
        self.errors += row["error"] is not None
        if self.total is None:
            self.total = len({question.video for question in trainer.datamodule.questions})
        return f"videos {len(self.videos)}/{self.total}, errors {self.errors}"


class ProgressBars(TQDMProgressBar):
    """Lightning's bars, on standard error; those of questions count videos and errors."""

    def __init__(self) -> None:
        super().__init__()
        self._questions = Questions()

    def init_sanity_tqdm(self) -> Tqdm:
        """Make the bar of the check before a training."""
        with contextlib.redirect_stdout(sys.stderr):  # Lightning gives `file=sys.stdout`
            return super().init_sanity_tqdm()

    def init_train_tqdm(self) -> Tqdm:
        """Make the bar of training steps."""
        with contextlib.redirect_stdout(sys.stderr):
            return super().init_train_tqdm()

    def init_predict_tqdm(self) -> Tqdm:
        """Make the bar of questions or clips."""
        with contextlib.redirect_stdout(sys.stderr):
            return super().init_predict_tqdm()

    def init_validation_tqdm(self) -> Tqdm:
        """Make the bar of a validation."""
        with contextlib.redirect_stdout(sys.stderr):
            return super().init_validation_tqdm()

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, *step: Any) -> None:
        """Advance the bar by one question."""
        super().on_predict_batch_end(trainer, pl_module, *step)
        self._count(self.predict_progress_bar, trainer, pl_module, step[0])

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *step: Any) -> None:
        """Advance the bar by one question."""
        super().on_validation_batch_end(trainer, pl_module, *step)
        self._count(self.val_progress_bar, trainer, pl_module, step[0])

    def _count(self, bar: tqdm, trainer: Trainer, pl_module: LightningModule, row: Any) -> None:
        if isinstance(pl_module, VideoQA):
            bar.set_postfix_str(self._questions.add(trainer, row))


class ProgressLines(ProgressBar):
    """A line about each run at its start, and then every half minute: what is done, the loss, the time left."""

    def __init__(self) -> None:
        super().__init__()
        self._questions = Questions()
        self._pace = Pace(None)
        self._enabled = True

    def disable(self) -> None:
        """Say nothing: Lightning asks for this on all processes but the first."""
        self._enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how many steps there are."""
        self._pace = Pace(_known(trainer.estimated_stepping_batches))
        self._pace.first = trainer.global_step
        self._say(f"training: {self._pace.line(trainer.global_step, 'steps')}")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Say the step, the loss and the time left, if it is time."""
        if self._pace.due():
            loss = outputs["loss"] if isinstance(outputs, dict) else outputs
            number = "" if loss is None else f", loss {float(loss):.4g}"
            self._say(f"training: {self._pace.line(trainer.global_step, 'steps')}{number}")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        self._pace = Pace(_known(sum(trainer.num_predict_batches)))

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, row: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Say how many are done, if it is time."""
        self._advance(trainer, pl_module, row, batch_idx + 1)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count, unless this is a validation in a training."""
        if trainer.state.fn == "validate":
            self._pace = Pace(_known(sum(trainer.num_val_batches)))

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, row: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Say how many are done, if it is time."""
        if trainer.state.fn == "validate":
            self._advance(trainer, pl_module, row, batch_idx + 1)
        elif self._pace.due():
            self._say(f"validating after step {trainer.global_step}: batch {batch_idx + 1}")

    def _advance(self, trainer: Trainer, pl_module: LightningModule, row: Any, done: int) -> None:
        asks = isinstance(pl_module, VideoQA)
        counts = f"; {self._questions.add(trainer, row)}" if asks else ""
        if self._pace.due():
            self._say(f"{self._pace.line(done, 'questions' if asks else 'clips')}{counts}")

    def _say(self, text: str) -> None:
        if self._enabled:
            log.info(text)


def _known(count: float) -> int | None:
    """Return a number of steps; None for infinity, which Lightning gives if it is not known."""
    return None if math.isinf(count) else int(count)
