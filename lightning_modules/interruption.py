"""Ends a run soon after SIGTERM (SLURM, Kubernetes, spot machines) or Ctrl-C: nothing that is written is lost."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import threading
from types import FrameType
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from lightning_modules.selector_checkpoints import ResumePoint, can_save

log = logging.getLogger(__name__)

PATIENCE = 20  # seconds that the first process waits for those that it started


class Interrupted(BaseException):
    """The run was told to stop. No error: whatever handles errors of single questions lets it pass.

    Args:
        signum: of the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum

    @property
    def status(self) -> int:
        """The exit status of a process that a signal ended: 143 for SIGTERM, 130 for SIGINT."""
        return 128 + self.signum


class Interruption(Callback):
    """Turns signals into `Interrupted`: at once, or where a training is in a step, once that step can be saved.

    A context manager around all that may be interrupted, and a callback of the trainer in it. Lightning's own handlers
    would let predict run on, end validate and fit with status 0, and talk to other processes from within the handler.

    Attributes:
        received: the signal that came; None: none.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._waits = False  # for the end of a training step
        self._before: dict[int, Any] = {}
        self._pid = os.getpid()

    def __enter__(self) -> Interruption:
        self._install()
        return self

    def __exit__(self, *_: Any) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)

    def _install(self) -> None:
        """Take the signals; SLURM warns of a time limit by SIGUSR1 (`sbatch --signal=USR1@120`)."""
        if threading.current_thread() is not threading.main_thread():
            return
        wanted = [signal.SIGTERM, signal.SIGINT, *([signal.SIGUSR1] if "SLURM_JOB_ID" in os.environ else [])]
        for signum in wanted:
            if signal.getsignal(signum) != self._handle:
                before = signal.signal(signum, self._handle)
                self._before.setdefault(signum, before)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a data loader's worker: it ends with the process that it works for
            raise KeyboardInterrupt
        if self.received is not None:
            if signum == signal.SIGINT:  # once more: whoever is there does not want to wait
                os._exit(128 + signum)
            return
        self.received = signum
        if not self._waits:
            raise Interrupted(signum)

    def check(self) -> None:
        """Stop if a signal came: it may have been raised where Python throws exceptions away."""
        if self.received is not None:
            raise Interrupted(self.received)

    # -- as a callback

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning has put its own handlers in place just before."""
        self._install()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See `on_predict_start`; one within a training is not waited for, there is a checkpoint from before it."""
        self._install()
        self._waits = False
        self.check()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on a step is waited for, so that it can be saved."""
        self._install()
        self.check()
        self._waits = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Save and stop, in all processes at the same step; where a validation comes next, stop there."""
        here = self.received is not None
        told = trainer.strategy.reduce_boolean_decision(here, all=False) if trainer.world_size > 1 else here
        if not told or not can_save(trainer):
            return
        for callback in trainer.callbacks:
            if isinstance(callback, ResumePoint):
                callback.save(trainer)
        raise Interrupted(self.received or signal.SIGTERM)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Of a training, its next step is waited for again."""
        self._waits = bool(trainer.training)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What is left to do takes no time."""
        self._waits = False

    def on_predict_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Between two questions."""
        self.check()

    def on_validation_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Between two questions."""
        self.check()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Tell the processes that this one started, and wait for them to have written what they have."""
        launcher = trainer.strategy.launcher
        if not isinstance(exception, Interrupted) or not isinstance(launcher, _SubprocessScriptLauncher):
            return
        if started_by_another():
            os.kill(os.getppid(), signal.SIGTERM)  # it ends the others; it knows already, in most cases
        launcher.kill(signal.SIGTERM)
        for process in launcher.procs:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


def started_by_another() -> bool:
    """Whether this is a process that Lightning's first one started: that one's exit status is what counts."""
    return int(os.environ.get("LOCAL_RANK", 0)) > 0 and "TORCHELASTIC_RUN_ID" not in os.environ


def requeue() -> None:
    """Put this SLURM job back into the queue: it goes on where it stopped."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if os.environ.get("SLURM_PROCID", "0") != "0" or not re.fullmatch(r"\d+(_\d+)?", job):
        return
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    except OSError as error:
        log.warning("the job cannot be put back into the queue: scontrol: %s", error.strerror)
        return
    log.warning("job %s %s", job, "is in the queue again" if done.returncode == 0 else f"is not: {done.stderr.strip()}")
