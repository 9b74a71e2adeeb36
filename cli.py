"""The command line, `python cli.py VERB ...`. It joins the packages and names no family."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from pydoc import locate
from typing import Any

import torch
from jsonargparse import ActionYesNo, Namespace, auto_cli
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from tqdm import tqdm

from datamodules.needle_clips import NeedleClips
from flexselect.analysis.needle_recall import NeedleClip
from flexselect.commands.check import check_words
from flexselect.commands.command_texts import error_message, mark_texts, unmark
from flexselect.commands.convert import convert
from flexselect.commands.experiment import names_experiment, run_experiment
from flexselect.commands.export import export, read_checkpoint
from flexselect.commands.page import serve
from flexselect.evaluation.comparison import compare
from flexselect.families.base import VideoFamily
from flexselect.storage.run_settings import UsageError
from flexselect.version import __version__
from lightning_modules.callbacks import PredictionWriter, QuestionProgressBar
from lightning_modules.interruption import Interrupted, Interruption, requeue, started_by_another
from lightning_modules.locating import Locating
from lightning_modules.question_files import QuestionPictures, Report
from lightning_modules.selector_checkpoints import FOLDER, LAST
from lightning_modules.teacher_scoring import TeacherScoring
from lightning_modules.video_qa import VideoQA

PLAIN_VERBS = {"convert": convert, "export": export, "compare": compare, "serve": serve}  # verbs without a Trainer
MODULES = {"visualize": VideoQA, "locate": Locating}  # verbs that run `predict` with a model of this class
VERBS = """Further verbs: visualize (predict, with pictures of each question), locate (recall of needles by layer;
both have predict's options), check (machine, checkpoint and model: the first thing to run), serve (a page to try a
model on), experiment (several validations, one table), compare (two runs side by side), export (a checkpoint as a
selector), convert (a checkpoint to Hugging Face layout). docs/config_keys.md has every key."""
ALL_ANSWERED, COULD_NOT_GO_ON, BAD_USAGE, SOME_FAILED = 0, 1, 2, 3  # exit status

log = logging.getLogger(__name__)


class FlexSelectCLI(LightningCLI):
    """LightningCLI with a family, which module and data module share, and an output folder.

    Args:
        verb: the verb as typed, for example `locate`.
        args: arguments of LightningCLI.
        kwargs: keyword arguments of LightningCLI.
    """

    def __init__(self, verb: str, *args: Any, **kwargs: Any) -> None:
        self.verb = verb
        super().__init__(*args, **kwargs)

    def subcommands(self) -> dict[str, set[str]]:
        """The Trainer's verbs, each with the arguments that Lightning fills in.

        If one was typed, only that one: the parser of each verb takes a tenth of a second.
        """
        verbs = {verb: {"model", "dataloaders", "datamodule"} for verb in ("validate", "predict")}
        verbs["fit"] = {"model", "train_dataloaders", "val_dataloaders", "datamodule"}
        typed = "predict" if self.verb in MODULES else self.verb
        return {typed: verbs[typed]} if typed in verbs else verbs

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add `family`, `output_dir` and `writer`."""
        parser.add_subclass_arguments(VideoFamily, "family", required=True)
        parser.add_argument("--output_dir", type=str | None, default=None, help="folder for everything written")
        parser.add_argument(
            "--report", action=ActionYesNo, default=False, help="also write report.html, all on one page"
        )
        parser.add_lightning_class_args(PredictionWriter, "writer")
        parser.link_arguments("output_dir", "writer.output_dir")
        parser.link_arguments("output_dir", "trainer.default_root_dir")
        for half in ("model", "data"):
            parser.link_arguments("family", f"{half}.init_args.family", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the command line and check the checkpoint; Lightning's error would not name its file."""
        super().parse_arguments(parser, args)
        config = self.config.get(self.config.get("subcommand"))
        if config is not None and config.ckpt_path is not None and Path(config.ckpt_path).suffix:
            check_checkpoint(config.ckpt_path, config.model.class_path)

    def before_instantiate_classes(self) -> None:
        """Check that the model fits the verb; add defaults for `fit` and a progress bar for the other verbs."""
        config = unmark(self.config[self.subcommand])
        callbacks = self.trainer_defaults.setdefault("callbacks", [])
        required = VideoQA if config.report else MODULES.get(self.verb, LightningModule)
        if not issubclass(locate(config.model.class_path) or object, required):
            option = "--report" if config.report else self.verb
            raise UsageError(
                f"{option} is for a model of {required.__name__}, the configs have {config.model.class_path}"
            )
        if config.report:
            callbacks.append(Report())
        if self.subcommand == "fit":
            prepare_fit(config)
        elif config.trainer.enable_progress_bar is not False:
            callbacks.append(QuestionProgressBar())
        if config.trainer.logger is None:
            config.trainer.logger = False

    def instantiate_classes(self) -> None:
        """Build all objects; errors of constructors are usage errors."""
        try:
            super().instantiate_classes()
        except (ValueError, OSError) as error:
            wrapped = str(error).startswith("Does not validate")  # jsonargparse wraps the reason in a longer text
            cause = error.__cause__ or error.__context__ or error
            raise UsageError(str(cause if wrapped else error)) from error


def check_checkpoint(path: str, module: str) -> None:
    """Refuse a checkpoint that cannot be used, before a model is loaded.

    Raises:
        UsageError: if the file is not a training checkpoint, or the module takes no checkpoint.
    """
    if issubclass(locate(module) or object, VideoQA | Locating | TeacherScoring):
        advice = "`export` it, and give the folder with --model.selector"
        raise UsageError(f"--ckpt_path {path}: {module} loads no training's checkpoint; {advice}")
    try:
        read_checkpoint(path)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error


def prepare_fit(config: Namespace) -> None:
    """Set defaults of a training: output folder, two loggers, and the last checkpoint to resume from."""
    folder = config.trainer.default_root_dir = config.output_dir = config.output_dir or "outputs/fit"
    if config.trainer.logger is None:
        config.trainer.logger = [
            Namespace(class_path=f"lightning.pytorch.loggers.{kind}", init_args=Namespace(save_dir=folder, name=name))
            for kind, name in (("TensorBoardLogger", "tensorboard"), ("CSVLogger", "csv"))
        ]
    last = Path(folder) / FOLDER / LAST
    if config.ckpt_path is None and last.exists():
        logging.getLogger("lightning_modules").info("going on from %s", last)
        config.ckpt_path = str(last)


def experiment(words: Sequence[str]) -> int:
    """Run the verb `experiment`: `--config FILE --output_dir DIR`, and options that apply to all its runs."""
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

    def clips(family: VideoFamily, count: int, units: int) -> list[NeedleClip]:
        return list(NeedleClips(family, count, units, distractors=min(3, units - 1)).predict_dataloader())

    return COULD_NOT_GO_ON if check_words(words, clips).failed else ALL_ANSWERED


def run_plain(verb: str, *words: str) -> int:
    """Run a verb without a Trainer: a function that returns text, or nothing."""
    sys.stdout.write(auto_cli(PLAIN_VERBS[verb], args=list(words), as_positional=verb == "compare") or "")
    return ALL_ANSWERED


OWN_WORDS = {"experiment": experiment, "check": check}  # verbs that pass configs and options on


class ProgressBarHandler(logging.Handler):
    """Log handler that writes messages above a running progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        tqdm.write(self.format(record), file=sys.stderr)


def set_up_logging() -> None:
    """Show this project's messages without a prefix, and only the warnings of Lightning."""
    logging.basicConfig(format="%(message)s", handlers=[ProgressBarHandler()])
    logging.getLogger("lightning_modules").setLevel(logging.INFO)
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    for message in (".*LeafSpec.*", "LightningCLI's args parameter"):  # Lightning gives these on every run
        warnings.filterwarnings("ignore", message=message)


def report_run(cli: FlexSelectCLI) -> int:
    """Print the answers if the command line names the videos; return the exit status."""
    writer = next(callback for callback in cli.trainer.callbacks if isinstance(callback, PredictionWriter))
    if cli.subcommand == "predict" and cli.config.predict.data.init_args.get("video"):
        several = len({row["video"] for row in writer.rows.values()}) > 1
        for row in writer.rows.values():
            lines = [*([row["video"]] if several else []), row["question"], row["error"] or row["answer"]]
            sys.stdout.write("".join(f"{line}\n" for line in lines))
    if writer.lost:
        return COULD_NOT_GO_ON
    failed = any(row["error"] for row in writer.rows.values())
    if isinstance(cli.model, TeacherScoring):
        failed = cli.model.failed > 0
    return SOME_FAILED if failed else ALL_ANSWERED


def main(args: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        The exit status: 0 all answered, 3 some rows failed and are recorded, 2 bad usage, 1 could not continue; 143 and
        130 stopped by SIGTERM and by Ctrl-C.
    """
    set_up_logging()
    with Interruption() as interruption:
        try:
            status = run_verb(list(sys.argv[1:] if args is None else args), interruption)
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
    try:
        if list(arguments) == ["--version"]:
            sys.stdout.write(f"flexselect {__version__}\n")
            return ALL_ANSWERED
        words = mark_texts(arguments)
        if words and words[0] in PLAIN_VERBS:
            return run_plain(*words)
        if words[:1] == ["validate"] and names_experiment(words):
            words[0] = "experiment"
        if words and words[0] in OWN_WORDS:
            return OWN_WORDS[words[0]](words[1:])
        verb = words[0] if words else ""
        if verb in MODULES:
            words[0] = "predict"
        cli = FlexSelectCLI(
            verb,
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            parser_kwargs={"description": VERBS},
            trainer_defaults={
                "callbacks": [interruption, *([QuestionPictures()] if verb == "visualize" else [])],
                "logger": None,
                "enable_checkpointing": False,
                "enable_model_summary": False,
                "use_distributed_sampler": False,  # the data modules share out whole videos
            },
            seed_everything_default=0,
            args=words,
        )
    except (UsageError, MisconfigurationException) as error:
        sys.stderr.write(f"error: {error}\n")
        return BAD_USAGE
    except (ValueError, OSError, RuntimeError, ImportError, torch.OutOfMemoryError) as error:
        sys.stderr.write(f"could not go on: {error_message(error)}\n")
        log.debug("where", exc_info=True)
        return COULD_NOT_GO_ON
    return report_run(cli)


def run() -> None:
    """Run the command line as an installed program."""
    sys.exit(main())


if __name__ == "__main__":
    run()
