"""A callback for tests that run a training in a process of its own."""

import os
from pathlib import Path

import torch
from lightning import Callback


class KeepGradients(Callback):
    """Saves the first gradients, or sends the process a signal before some step.

    Args:
        folder: where to.
        die_at: a step; None: never.
        signum: of the signal; SIGKILL by default.
        validating: send it within the validation of a training instead.
    """

    def __init__(self, folder: str, die_at: int | None = None, signum: int = 9, validating: bool = False) -> None:
        self.folder, self.die_at = Path(folder), die_at
        self.signum, self.validating = signum, validating

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == 0 and trainer.is_global_zero:
            grads = {name: w.grad for name, w in pl_module.selector.named_parameters() if w.grad is not None}
            self.folder.mkdir(parents=True, exist_ok=True)
            torch.save(grads, self.folder / "gradients.pt")
        if trainer.global_step == self.die_at and trainer.is_global_zero:
            os.kill(os.getpid(), self.signum)

    def on_validation_batch_end(self, trainer, *_):
        if self.validating and not trainer.sanity_checking and trainer.is_global_zero:
            os.kill(os.getpid(), self.signum)
