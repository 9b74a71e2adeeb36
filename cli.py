"""The command line, `python cli.py VERB ...`. It joins the packages and names no family.

Only what every call needs is imported here: help, an unknown verb and a missing config are answered before PyTorch is
loaded.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from pydoc import locate
from typing import TYPE_CHECKING, Any

from flexselect.commands.help import answer_at_once
from flexselect.commands.verbs import ALL_ANSWERED, BAD_USAGE, COULD_NOT_GO_ON, SOME_FAILED

if TYPE_CHECKING:
    from flexselect.analysis.needle_recall import NeedleClip
    from flexselect.families.base import VideoFamily
    from lightning_modules.command_line.interruption import Interruption

__all__ = ["ALL_ANSWERED", "BAD_USAGE", "COULD_NOT_GO_ON", "SOME_FAILED", "main"]

PLAIN_VERBS = {  # verbs without a Trainer: functions that return text, or nothing
    "convert": "flexselect.commands.convert.convert",
    "export": "flexselect.commands.export.export",
    "compare": "flexselect.evaluation.comparison.compare",
    "serve": "flexselect.commands.page.serve",
}

log = logging.getLogger(__name__)


def experiment(words: Sequence[str]) -> int:
    """Run the verb `experiment`: `--config FILE --output_dir DIR`, and options that apply to all its runs."""
    from flexselect.commands.experiment import run_experiment

    parser = argparse.ArgumentParser(prog="cli.py experiment", allow_abbrev=False)
    parser.add_argument("--config", required=True, help="one of configs/experiment")
    parser.add_argument("--output_dir", help="one folder per run, and the table; outputs/NAME by default")
    options, more = parser.parse_known_args(words)
    folder = options.output_dir or str(Path("outputs") / Path(options.config).stem)
    status = run_experiment(options.config, more, folder, main)
    table = Path(folder) / "experiment.md"
    sys.stdout.write(table.read_text(encoding="utf-8") if table.exists() else "")
    return status


def check(words: Sequence[str]) -> int:
    """Run the verb `check`: a model's configs, and options that change them."""
    from datamodules.needle_clips import NeedleClips
    from flexselect.commands.check import check_words

    def clips(family: VideoFamily, count: int, units: int) -> list[NeedleClip]:
        return list(NeedleClips(family, count, units, distractors=min(3, units - 1)).predict_dataloader())

    return COULD_NOT_GO_ON if check_words(words, clips).failed else ALL_ANSWERED


OWN_WORDS: dict[str, Callable[[Sequence[str]], int]] = {  # verbs that pass configs and options on
    "experiment": experiment,
    "check": check,
}


def run_plain(verb: str, *words: str) -> int:
    """Run a verb without a Trainer: a function that returns text, or nothing."""
    from jsonargparse import auto_cli

    from flexselect.commands.command_texts import explain_mistake
    from flexselect.storage.run_settings import UsageError

    function: Any = locate(PLAIN_VERBS[verb])
    try:
        text = auto_cli(function, args=list(words), as_positional=verb == "compare", exit_on_error=False)
    except argparse.ArgumentError as error:
        raise UsageError(
            explain_mistake(str(error), [f"--{name}" for name in signature(function).parameters])
        ) from error
    sys.stdout.write(text or "")
    return ALL_ANSWERED


class ProgressBarHandler(logging.Handler):
    """Log handler that writes messages above a running progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


def set_up_logging() -> None:
    """Show this project's messages without a prefix, and only the warnings of Lightning."""
    logging.basicConfig(format="%(message)s", handlers=[ProgressBarHandler()])
    logging.getLogger("lightning_modules").setLevel(logging.INFO)
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    for message in (".*LeafSpec.*", "LightningCLI's args parameter"):  # Lightning gives these on every run
        warnings.filterwarnings("ignore", message=message)


def main(args: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        The exit status: 0 all answered, 3 some rows failed and are recorded, 2 bad usage, 1 could not continue; 143 and
        130 stopped by SIGTERM and by Ctrl-C.
    """
    words = list(sys.argv[1:] if args is None else args)
    at_once = answer_at_once(words)
    if at_once is not None:
        status, text = at_once
        (sys.stdout if status == ALL_ANSWERED else sys.stderr).write(text)
        return status
    set_up_logging()
    return run_until_signal(words)


def run_until_signal(words: Sequence[str]) -> int:
    """Run one verb until its end or a signal; see `main`."""
    from lightning_modules.command_line.interruption import Interrupted, Interruption, requeue, started_by_another

    with Interruption() as interruption:
        try:
            status = run_verb(words, interruption)
        except Interrupted as stop:
            status = stop.status
        except SystemExit as stop:
            if not isinstance(stop.__context__, KeyboardInterrupt):
                raise
            status = 128 + signal.SIGINT
        if interruption.received is not None and status in (COULD_NOT_GO_ON, 128 + interruption.received):
            status = 128 + interruption.received  # an error while the run stops is a consequence of stopping
            log.warning("stopped by %s; call again to go on", signal.Signals(interruption.received).name)
            if interruption.received == signal.SIGUSR1:
                requeue()
    return ALL_ANSWERED if started_by_another() and status > 128 else status


def run_verb(arguments: Sequence[str], interruption: Interruption) -> int:
    """Run one verb and translate errors to an exit status; see `main`.

    Raises:
        Interrupted: if a signal stopped the run.
    """
    import torch

    from flexselect.commands.command_texts import error_message, mark_texts
    from flexselect.commands.experiment import names_experiment
    from flexselect.storage.run_settings import UsageError

    verb, *words = mark_texts(["--help" if word == "--help-all" else word for word in arguments])
    if verb == "validate" and names_experiment([verb, *words]):
        verb = "experiment"
    try:
        if verb in PLAIN_VERBS:
            return run_plain(verb, *words)
        if verb in OWN_WORDS:
            return OWN_WORDS[verb](words)
        from lightning_modules.command_line.trainer_verbs import run_trainer

        return run_trainer(verb, words, interruption)
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return BAD_USAGE
    except (ValueError, OSError, RuntimeError, ImportError, torch.OutOfMemoryError) as error:
        sys.stderr.write(f"could not go on: {error_message(error)}\n")
        log.debug("where", exc_info=True)
        return COULD_NOT_GO_ON


def run() -> None:
    """Run the command line as an installed program."""
    sys.exit(main())


if __name__ == "__main__":
    run()
