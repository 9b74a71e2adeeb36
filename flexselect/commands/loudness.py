"""How much the program says on standard error: notes, warnings, progress bars of libraries."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence

OURS = ("cli", "flexselect", "datamodules", "lightning_modules")  # loggers


class ProgressBarHandler(logging.Handler):
    """Log handler that writes messages above a running progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


def set_up_logging(loudness: Sequence[str]) -> None:
    """Show this project's messages without a prefix: warnings; notes too, unless "--quiet" was typed."""
    logging.basicConfig(format="%(message)s", handlers=[ProgressBarHandler()])
    level = logging.WARNING if "--quiet" in loudness else logging.DEBUG if "--verbose" in loudness else logging.INFO
    for package in OURS:
        logging.getLogger(package).setLevel(level)


def quiet_libraries(loudness: Sequence[str]) -> None:
    """Show warnings of libraries only, or all they say if "--verbose" was typed; their bars on a terminal only.

    Call it after the libraries are imported, since Lightning sets its level then.
    """
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).handlers.clear()  # else each line comes twice: the root has a handler
        logging.getLogger(library).setLevel(logging.INFO if "--verbose" in loudness else logging.WARNING)
    if "--verbose" not in loudness:
        for message in (".*LeafSpec.*", "LightningCLI's args parameter"):  # Lightning gives these on every run
            warnings.filterwarnings("ignore", message=message)
    if "--quiet" in loudness or not sys.stderr.isatty():
        disable_progress_bar()  # of loading weights, and of downloads
    if "--quiet" in loudness:
        set_verbosity_error()  # a hybrid would say that it runs without its kernels
    else:
        enable_progress_bars()  # of downloads: they can take an hour
