"""End a run soon after SIGTERM (SLURM, Kubernetes, spot machines) or Ctrl-C, without losing what was written."""

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

PATIENCE = 20  # seconds that the first process waits for the processes it started


class Interrupted(BaseException):
    """Raised if a signal stops the run. Not an `Exception`, so that handlers for failed questions let it pass.

    Args:
        signum: number of the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum

    @property
    def status(self) -> int:
        """The exit status of a process that ended by a signal: 143 for SIGTERM, 130 for SIGINT."""
        return 128 + self.signum


class Interruption(Callback):
    """Callback that turns signals into `Interrupted`: at once, or after the current training step.

    It waits for the step so that the step can be saved. It is also a context manager around everything that may be
    interrupted. Lightning's handlers would let predict run on, end validate and fit with status 0, and communicate with
    other processes from within the handler.

    Attributes:
        received: the signal that was received; None: none so far.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._waits = False  # whether to wait for the end of a training step
        self._before: dict[int, Any] = {}
        self._pid = os.getpid()

    def __enter__(self) -> Interruption:
        self._install()
        return self

    def __exit__(self, *_: Any) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)

    def _install(self) -> None:
        """Install the handlers; SLURM announces a time limit by SIGUSR1 (`sbatch --signal=USR1@120`)."""
        if threading.current_thread() is not threading.main_thread():
            return
        wanted = [signal.SIGTERM, signal.SIGINT, *([signal.SIGUSR1] if "SLURM_JOB_ID" in os.environ else [])]
        for signum in wanted:
            if signal.getsignal(signum) != self._handle:
                before = signal.signal(signum, self._handle)
                self._before.setdefault(signum, before)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a DataLoader worker, which ends with its parent
            raise KeyboardInterrupt
        if self.received is not None:
            if signum == signal.SIGINT:  # a second Ctrl-C: the user does not want to wait
                os._exit(128 + signum)
            return
        self.received = signum
        if not self._waits:
            raise Interrupted(signum)

    def check(self) -> None:
        """Raise `Interrupted` if a signal was received: Python may have swallowed the first exception."""
        if self.received is not None:
            raise Interrupted(self.received)

    # -- as a callback

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers again: Lightning has just replaced them."""
        self._install()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers again. A validation within a training is not waited for: a checkpoint precedes it."""
        self._install()
        self._waits = False
        self.check()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to wait for the end of a training step after a signal, so that the step can be saved."""
        self._install()
        self.check()
        self._waits = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Save and stop, in all processes at the same step; if a validation comes next, stop before it."""
        received = self.received is not None
        stops = trainer.strategy.reduce_boolean_decision(received, all=False) if trainer.world_size > 1 else received
        if not stops or not can_save(trainer):
            return
        for callback in trainer.callbacks:
            if isinstance(callback, ResumePoint):
                callback.save(trainer)
        raise Interrupted(self.received or signal.SIGTERM)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Within a training, wait for the next training step again."""
        self._waits = bool(trainer.training)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop waiting: the rest of a training takes no time."""
        self._waits = False

    def on_predict_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Stop between two questions."""
        self.check()

    def on_validation_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Stop between two questions."""
        self.check()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Tell the processes that this one started to stop, and wait until they have written their rows."""
        launcher = trainer.strategy.launcher
        if not isinstance(exception, Interrupted) or not isinstance(launcher, _SubprocessScriptLauncher):
            return
        if started_by_another():
            os.kill(os.getppid(), signal.SIGTERM)  # the parent ends the others; in most cases it already knows
        launcher.kill(signal.SIGTERM)
        for process in launcher.procs:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


def started_by_another() -> bool:
    """Return whether Lightning's first process started this one; the first one's exit status counts."""
    return int(os.environ.get("LOCAL_RANK", 0)) > 0 and "TORCHELASTIC_RUN_ID" not in os.environ


def requeue() -> None:
    """Put this SLURM job back into the queue, to continue later."""
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
