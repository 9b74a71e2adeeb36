"""A callback for tests that run a training in a process of its own."""

import os
import signal
from pathlib import Path

import torch
from lightning import Callback


class KeepGradients(Callback):
    """Saves the first gradients, or kills the process before some step.

    Args:
        folder: where to.
        die_at: a step; None: never.
        politely: as by Ctrl-C.
    """

    def __init__(self, folder: str, die_at: int | None = None, politely: bool = False) -> None:
        self.folder, self.die_at = Path(folder), die_at
        self.politely = politely

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == 0 and trainer.is_global_zero:
            grads = {name: w.grad for name, w in pl_module.selector.named_parameters() if w.grad is not None}
            self.folder.mkdir(parents=True, exist_ok=True)
            torch.save(grads, self.folder / "gradients.pt")
        if trainer.global_step == self.die_at:
            if self.politely:
                raise KeyboardInterrupt  # the signal itself is ignored in the background of a shell
            os.kill(os.getpid(), signal.SIGKILL)
