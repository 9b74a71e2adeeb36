"""The command line, `python cli.py VERB ...`. It joins the packages and names no family.

Only what every call needs is imported here: help, an unknown verb and a missing config are answered before PyTorch is
loaded.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from pydoc import locate
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from flexselect.commands.ask import predict_words
from flexselect.commands.help.at_once import HELP, HELP_ALL, answer_at_once
from flexselect.commands.loudness import quiet_libraries, set_up_logging
from flexselect.commands.verbs import ALL_ANSWERED, BAD_USAGE, COULD_NOT_GO_ON, LOUDNESS, SOME_FAILED, VERBS
from flexselect.shipped import find_configs

if TYPE_CHECKING:
    from flexselect.analysis.needle_recall import NeedleClip
    from flexselect.families.base import VideoFamily
    from lightning_modules.command_line.interruption import Interruption

__all__ = ["ALL_ANSWERED", "BAD_USAGE", "COULD_NOT_GO_ON", "SOME_FAILED", "main"]

CAN_GO_ON = ("predict", "validate", "visualize", "fit", "experiment")  # verbs that a new call continues

log = logging.getLogger("cli")


def experiment(words: Sequence[str], loudness: Sequence[str]) -> int:
    """Run the verb `experiment`: `--config FILE --output_dir DIR`, and options that apply to all its runs."""
    from flexselect.commands.experiment import run_experiment

    parser = argparse.ArgumentParser(prog="cli.py experiment", allow_abbrev=False)
    parser.add_argument("--config", required=True, help="one of configs/experiment")
    parser.add_argument("--output_dir", help="one folder per run, and the table; outputs/NAME by default")
    options, more = parser.parse_known_args(words)
    folder = options.output_dir or str(Path("outputs") / Path(options.config).stem)
    status = run_experiment(options.config, [*more, *loudness], folder, main)
    table = Path(folder) / "experiment.md"
    sys.stdout.write(table.read_text(encoding="utf-8") if table.exists() else "")
    return status


def check(words: Sequence[str], loudness: Sequence[str]) -> int:
    """Run the verb `check`: a model's configs, and options that change them."""
    from datamodules.needle_clips import NeedleClips
    from flexselect.commands.check import check_words

    quiet_libraries(loudness)

    def clips(family: VideoFamily, count: int, units: int) -> list[NeedleClip]:
        return list(NeedleClips(family, count, units, distractors=min(3, units - 1)).predict_dataloader())

    return COULD_NOT_GO_ON if check_words(words, clips).failed else ALL_ANSWERED


def demo(words: Sequence[str], loudness: Sequence[str]) -> int:
    """Run the verb `demo`: render a video, and ask the model that is included about it."""
    from datamodules.needles import write_needle_videos
    from datamodules.video_qa import read_annotations
    from flexselect.commands.demo import run_demo
    from flexselect.nearest import did_you_mean
    from flexselect.storage.run_settings import UsageError

    quiet_libraries(loudness)
    parser = argparse.ArgumentParser(prog="flexselect demo", allow_abbrev=False)
    parser.add_argument("--output_dir", default="outputs/try")
    options, unknown = parser.parse_known_args(words)
    if unknown:
        raise UsageError(f"demo has no option {unknown[0]}{did_you_mean(unknown[0], ['--output_dir'])}")
    annotations = write_needle_videos(options.output_dir, videos=1, patches=256, seed=2026)
    questions = read_annotations(str(annotations))
    return run_demo(annotations.parent / questions[0].video, questions)


def merge(words: Sequence[str], loudness: Sequence[str]) -> int:
    """Run the verb `merge`: folders of shards, and `--output_dir DIR`."""
    from flexselect.commands.merge import merge as merge_shards
    from flexselect.nearest import did_you_mean
    from flexselect.storage.run_settings import UsageError

    parser = argparse.ArgumentParser(prog="flexselect merge", allow_abbrev=False, exit_on_error=False)
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--output_dir")
    try:
        options, unknown = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from error
    if unknown:
        raise UsageError(f"merge has no option {unknown[0]}{did_you_mean(unknown[0], ['--output_dir'])}")
    if not options.folders or options.output_dir is None:
        raise UsageError(f"missing: the shards' folders, or --output_dir; for example {VERBS['merge'].example}")
    text, failed = merge_shards(options.folders, options.output_dir)
    sys.stdout.write(text)
    return SOME_FAILED if failed else ALL_ANSWERED


OWN_WORDS: dict[str, Callable[[Sequence[str], Sequence[str]], int]] = {  # verbs that parse their words themselves
    "experiment": experiment,
    "check": check,
    "demo": demo,
    "merge": merge,
}


def ask(words: Sequence[str], interruption: Interruption, loudness: Sequence[str]) -> int:
    """Run the verb `ask`: `predict` with these words, without a trace on the disk unless a folder is named."""
    from lightning_modules.command_line.trainer_verbs import run_trainer

    if any(word.startswith("--output_dir") for word in words):
        return run_trainer("ask", words, interruption, loudness)
    writer = logging.getLogger("lightning_modules.callbacks")  # it names files of the folder
    with TemporaryDirectory() as folder:
        writer.setLevel(logging.WARNING)
        try:
            return run_trainer("ask", [*words, "--output_dir", folder], interruption, loudness)
        finally:
            writer.setLevel(logging.NOTSET)


def run_plain(verb: str, *words: str) -> int:
    """Run a verb without a Trainer: a function that returns text, or nothing."""
    from jsonargparse import auto_cli

    from flexselect.commands.command_texts import explain_mistake
    from flexselect.storage.run_settings import UsageError

    about = VERBS[verb]
    function: Any = locate(about.function)
    try:
        text = auto_cli(function, args=list(words), as_positional=bool(about.words), exit_on_error=False)
    except argparse.ArgumentError as error:
        options = [f"--{name}" for name in signature(function).parameters]
        raise UsageError(explain_mistake(str(error), options)) from error
    except FileNotFoundError as error:
        raise UsageError(str(error)) from error
    sys.stdout.write(text or "")
    return ALL_ANSWERED


def main(args: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        The exit status: 0 all answered, 3 some rows failed and are recorded, 2 bad usage, 1 could not continue; 143 and
        130 stopped by SIGTERM and by Ctrl-C.
    """
    typed = list(sys.argv[1:] if args is None else args)
    loudness = [word for word in typed if word in LOUDNESS]
    words = find_configs([word for word in typed if word not in LOUDNESS])
    if words[:1] == ["ask"] and not {*HELP, HELP_ALL} & {*words}:
        try:
            words = ["ask", *predict_words(words[1:])]
        except (ValueError, OSError) as error:
            sys.stderr.write(f"error: {error}\n")
            return BAD_USAGE
    at_once = answer_at_once(words)
    if at_once is not None:
        status, text = at_once
        (sys.stdout if status == ALL_ANSWERED else sys.stderr).write(text)
        return status
    set_up_logging(loudness)
    return run_until_signal(words, loudness)


def run_until_signal(words: Sequence[str], loudness: Sequence[str]) -> int:
    """Run one verb until its end or a signal; see `main`."""
    from lightning_modules.command_line.interruption import Interrupted, Interruption, requeue, started_by_another

    with Interruption() as interruption:
        try:
            status = run_verb(words, interruption, loudness)
        except Interrupted as stop:
            status = stop.status
        except SystemExit as stop:
            if not isinstance(stop.__context__, KeyboardInterrupt):
                raise
            status = 128 + signal.SIGINT
        if interruption.received is not None and status in (COULD_NOT_GO_ON, 128 + interruption.received):
            status = 128 + interruption.received  # an error while the run stops is a consequence of stopping
            go_on = "; call again to go on" if words[0] in CAN_GO_ON else ""
            log.warning("stopped by %s%s", signal.Signals(interruption.received).name, go_on)
            if interruption.received == signal.SIGUSR1:
                requeue()
    return ALL_ANSWERED if started_by_another() and status > 128 else status


def run_verb(arguments: Sequence[str], interruption: Interruption, loudness: Sequence[str]) -> int:
    """Run one verb and translate errors to an exit status; see `main`.

    Raises:
        Interrupted: if a signal stopped the run.
    """
    import torch

    from flexselect.commands.command_texts import error_message, mark_texts
    from flexselect.commands.experiment import names_experiment
    from flexselect.storage.run_settings import UsageError

    verb, *words = arguments
    words = mark_texts(words)
    if verb == "validate" and names_experiment([verb, *words]):
        verb = "experiment"
    try:
        if VERBS[verb].function:
            return run_plain(verb, *words)
        if verb in OWN_WORDS:
            return OWN_WORDS[verb](words, loudness)
        if verb == "ask":
            return ask(words, interruption, loudness)
        from lightning_modules.command_line.trainer_verbs import run_trainer

        return run_trainer(verb, words, interruption, loudness)
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
