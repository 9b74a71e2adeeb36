"""Verbs that run a Trainer: fit, validate, predict; visualize and locate, which are predictions of another kind."""

from __future__ import annotations

import logging
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from pydoc import locate
from textwrap import shorten
from typing import Any, Literal

from jsonargparse import ActionYesNo, Namespace
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from flexselect.commands.command_texts import explain_mistake, unmark
from flexselect.commands.export import read_checkpoint
from flexselect.commands.loudness import quiet_libraries
from flexselect.commands.verbs import ALL_ANSWERED, COULD_NOT_GO_ON, SOME_FAILED
from flexselect.evaluation.results import shown_answer, summary_lines
from flexselect.families.base import VideoFamily
from flexselect.storage.run_settings import UsageError
from flexselect.structures.answer import cited_moments
from flexselect.visualize.style import clock_time
from lightning_modules.callbacks import PredictionWriter
from lightning_modules.command_line.interruption import Interruption
from lightning_modules.locating import Locating
from lightning_modules.progress import progress_callback
from lightning_modules.question_files import MomentFiles, QuestionPictures, Report
from lightning_modules.selector_checkpoints import FOLDER, LAST
from lightning_modules.teacher_scoring import TeacherScoring
from lightning_modules.video_qa import VideoQA

log = logging.getLogger(__name__)

MODULES = {
    "visualize": VideoQA,
    "ask": VideoQA,
    "locate": Locating,
}  # verbs that run `predict`, each with a model of this class


def run_trainer(verb: str, words: Sequence[str], interruption: Interruption, loudness: Sequence[str] = ()) -> int:
    """Run a verb with a Trainer; return the exit status.

    Args:
        verb: the verb as typed.
        words: the words after it.
        interruption: ends the run at a signal.
        loudness: "--quiet" or "--verbose", if it was typed.

    Raises:
        UsageError: if the command line or its configs are wrong.
        Interrupted: if a signal stopped the run.
    """
    lightning_verb = to_lightning(verb)
    quiet_libraries(loudness)
    if "--quiet" in loudness:
        words = [*words, "--trainer.enable_progress_bar=false"]
    try:
        cli = FlexSelectCLI(
            verb,
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            trainer_defaults={
                "callbacks": [interruption, *([QuestionPictures()] if verb == "visualize" else [])],
                "logger": None,
                "enable_checkpointing": False,
                "enable_model_summary": False,
                "use_distributed_sampler": False,  # the data modules share out whole videos
            },
            seed_everything_default=0,
            parser_kwargs={"exit_on_error": False, lightning_verb: {"exit_on_error": False}},
            args=[lightning_verb, *words],
        )
    except MisconfigurationException as error:
        raise UsageError(str(error)) from error
    return report_run(cli)


def to_lightning(verb: str) -> str:
    """Return the Trainer's verb that a verb runs."""
    return "predict" if verb in MODULES else verb


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
        typed = to_lightning(self.verb)
        return {typed: verbs[typed]} if typed in verbs else verbs

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add `family`, `output_dir` and `writer`."""
        parser.add_subclass_arguments(VideoFamily, "family", required=True)
        parser.add_argument("--output_dir", type=str | None, default=None, help="folder for everything written")
        parser.add_argument(
            "--report", action=ActionYesNo, default=False, help="also write report.html, all on one page"
        )
        kinds = Literal["vtt", "chapters"] | None
        parser.add_argument("--moments", type=kinds, default=None, help="also write each answer's moments to a file")
        parser.add_lightning_class_args(PredictionWriter, "writer")
        parser.link_arguments("output_dir", "writer.output_dir")
        parser.link_arguments("output_dir", "trainer.default_root_dir")
        for half in ("model", "data"):
            parser.link_arguments("family", f"{half}.init_args.family", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the command line and check the checkpoint; Lightning's error would not name its file."""
        try:
            super().parse_arguments(parser, args)
        except ArgumentError as error:
            options = [name for verb in self._subcommand_parsers.values() for name in verb._option_string_actions]
            raise UsageError(explain_mistake(str(error), options)) from error
        config = self.config.get(self.config.get("subcommand"))
        if config is not None and config.ckpt_path is not None and Path(config.ckpt_path).suffix:
            check_checkpoint(config.ckpt_path, config.model.class_path)

    def before_instantiate_classes(self) -> None:
        """Check that the model fits the verb; add defaults for `fit` and a progress bar for the other verbs."""
        config = unmark(self.config[self.subcommand])
        callbacks = self.trainer_defaults.setdefault("callbacks", [])
        asks = config.report or config.moments is not None
        required = VideoQA if asks else MODULES.get(self.verb, LightningModule)
        if not issubclass(locate(config.model.class_path) or object, required):
            option = ("--report" if config.report else "--moments") if asks else self.verb
            raise UsageError(
                f"{option} is for a model of {required.__name__}, the configs have {config.model.class_path}"
            )
        if config.report:
            callbacks.append(Report())
        if config.moments is not None:
            callbacks.append(MomentFiles(config.moments))
        if self.subcommand == "fit":
            prepare_fit(config)
        if config.trainer.enable_progress_bar is not False:
            callbacks.append(progress_callback())
        if self.subcommand == "validate" and issubclass(locate(config.model.class_path) or object, VideoQA):
            config.verbose = False  # Lightning's table has the accuracy alone; `report_run` prints all results
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


def report_run(cli: FlexSelectCLI) -> int:
    """Print the answers if the command line names the videos, or the results; return the exit status."""
    writer = next(callback for callback in cli.trainer.callbacks if isinstance(callback, PredictionWriter))
    if cli.subcommand == "predict" and cli.config.predict.data.init_args.get("video"):
        write_answers(list(writer.rows.values()), with_questions=cli.verb != "ask" or len(writer.rows) > 1)
    elif cli.subcommand == "validate" and cli.trainer.is_global_zero and isinstance(cli.model, VideoQA):
        sys.stdout.write(summary_lines(writer.results))
    if writer.lost:
        return COULD_NOT_GO_ON
    failed = any(row["error"] for row in writer.rows.values())
    if isinstance(cli.model, TeacherScoring):
        failed = cli.model.failed > 0
    return SOME_FAILED if failed else ALL_ANSWERED


def where(row: dict[str, Any]) -> str:
    """Say which moments an answer comes from: the cited ones if they were verified, else those that stand out."""
    if not row.get("moments"):
        return "no moment stands out"
    proven = row.get("verification")
    spans = ", ".join(f"{clock_time(moment['start'])} to {clock_time(moment['end'])}" for moment in cited_moments(row))
    if proven is None:
        return f"what stands out: {spans}"
    other = "another answer" if proven["changed"] else "the same answer"
    return f"from {spans}; without it {other} (support {proven['support']:.2f})"


def write_answers(rows: Sequence[dict[str, Any]], with_questions: bool) -> None:
    """Write answers to standard output; the error of a row was said when it happened.

    Args:
        rows: the rows of the run.
        with_questions: write each question above its answer; and each video, if there are several.
    """
    several = len({row["video"] for row in rows}) > 1
    for warning in dict.fromkeys(warning for row in rows for warning in row["warnings"]):
        asked = [row["question"] for row in rows if warning in row["warnings"]]
        about = "" if len(asked) == len(rows) else f" ({shorten(asked[0], 60, placeholder=' …')})"
        log.warning("doubtful: %s%s", warning, about)
    for row in rows:
        if row["error"] is not None:
            continue
        above = [*([row["video"]] if several else []), row["question"]] if with_questions else []
        sys.stdout.write("".join(f"{line}\n" for line in (*above, shown_answer(row))))
        sys.stdout.flush()
        if row.get("presence") is not None:  # else nothing was scored
            log.info("%s", where(row))
