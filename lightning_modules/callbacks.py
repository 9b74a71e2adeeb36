"""The callback that writes answers and results."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from lightning import Callback, LightningModule, Trainer

from flexselect.contracts import QuestionSource
from flexselect.evaluation.parquet import NAME as PARQUET
from flexselect.evaluation.parquet import write_parquet
from flexselect.evaluation.questions import VideoQuestion
from flexselect.evaluation.results import (
    frequent_warnings,
    merge_predictions,
    prediction_key,
    read_answers,
    read_predictions,
)
from flexselect.evaluation.results_files import Provenance, write_results
from flexselect.loading.fingerprint import text_hash
from flexselect.storage.json_lines import append_line
from flexselect.storage.run_settings import UsageError, check_settings
from flexselect.storage.shard import FILE as SHARD_FILE
from lightning_modules.question_files import QuestionFiles
from lightning_modules.video_qa import VideoQA
from lightning_modules.waiting import wait_for_others

log = logging.getLogger(__name__)


class PredictionWriter(Callback):
    """Callback that writes each answer at once, and skips questions that an earlier run answered.

    `predictions.jsonl` gets one line per question; `validate` also writes `results.json`. A run with the same settings
    skips answered questions, and asks failed ones again. Each process writes a separate file; the first process merges
    them at the end.

    Args:
        output_dir: output folder; None: a folder under outputs/ named after the settings, so that settings never mix.
        format: "parquet" also writes predictions.parquet at the end; predictions.jsonl is written answer by answer.
    """

    def __init__(self, output_dir: str | None = None, format: Literal["jsonl", "parquet"] = "jsonl") -> None:
        self.output_dir, self.format = output_dir, format
        # rows of this run's questions by question key, including those that an earlier run answered
        self.rows: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.results: dict[str, Any] = {}  # of a validation
        self.lost = 0  # questions without a row at the end: an error if above 0
        self._file: Path | None = None  # None in verbs that ask no questions

    # -- begin

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the answers of earlier runs and skip their questions."""
        if stage not in ("predict", "validate") or not isinstance(pl_module, VideoQA):
            return
        videos = {question.video for question in pl_module.data.questions}
        if len(videos) < trainer.world_size:
            few = f"{trainer.world_size} processes cannot share {len(videos)} videos"
            raise UsageError(f"{few}: give --trainer.devices {len(videos)}")
        folder = self.folder(pl_module)
        folder.mkdir(parents=True, exist_ok=True)
        if trainer.is_global_zero:
            check_settings(folder / "settings.json", self._settings(pl_module), "answers of a run")
            (folder / SHARD_FILE).unlink(missing_ok=True)  # until this run has ended too
        extras = [callback for callback in trainer.callbacks if isinstance(callback, QuestionFiles)]
        for extra in extras:
            extra.folder = folder
        questions = {question.key: question for question in pl_module.data.questions}
        answers = read_answers(folder)
        kept = self._current_rows(answers, questions, pl_module.data.hash_of)
        wait_for_others(trainer)  # predictions are read
        if trainer.is_global_zero:
            merge_predictions(folder, kept)
            if len(kept) < len(answers):
                changed = len(answers) - len(kept)
                log.info("%d answers are to another prompt, options, part or video file: they are asked again", changed)
            _log_reworded(kept, questions)
        done = [row for row in kept if all(extra.path(row).exists() for extra in extras)]
        pl_module.answered = {prediction_key(row): row for row in done if prediction_key(row) in questions}
        pl_module.data.skip(pl_module.answered)
        if pl_module.answered:
            log.info("%d of %d questions were answered by an earlier run", len(pl_module.answered), len(questions))
        wait_for_others(trainer)  # predictions are merged
        self._file = folder / ("predictions.jsonl" if trainer.world_size == 1 else f"part-{trainer.global_rank}.jsonl")

    @staticmethod
    def _current_rows(
        rows: list[dict[str, Any]],
        questions: dict[tuple[str, str, str], VideoQuestion],
        hash_of: Callable[[str], str | None],
    ) -> list[dict[str, Any]]:
        """Return the rows that answer the current questions, and rows of questions that are not in this run."""
        kept = []
        for row in rows:
            question = questions.get(prediction_key(row))
            if question is not None:
                hashes = row.get("prompt_hash"), row.get("video_hash")
                if hashes != (question.prompt_hash, hash_of(question.video) or hashes[1]):
                    continue
            kept.append(row)
        return kept

    def folder(self, pl_module: LightningModule) -> Path:
        """Return the output folder of this run."""
        if self.output_dir is not None:
            return Path(self.output_dir)
        settings = json.dumps(self._settings(pl_module), sort_keys=True)
        name = f"{Path(pl_module.options.selector or 'dense').name}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"
        return Path("outputs") / name

    def _settings(self, pl_module: VideoQA) -> dict[str, Any]:
        """Everything that decides an answer: settings of the model and of the data."""
        shard = pl_module.data.shard
        return {**pl_module.settings, **pl_module.data.settings, **({} if shard is None else {"shard": shard.name})}

    # -- one answer

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: dict[str, Any], *_: Any, **__: Any
    ) -> None:
        """Write each answer at once: after a kill only the current one is missing."""
        if self._file is None:
            return
        self.rows[prediction_key(outputs)] = outputs
        if outputs != pl_module.answered.get(prediction_key(outputs)):
            self.write(outputs)

    on_validation_batch_end = on_predict_batch_end

    def write(self, row: dict[str, Any]) -> None:
        """Append one line."""
        assert self._file is not None
        append_line(self._file, row)
        if row["error"]:
            log.warning("%s: %s", row["id"], row["error"])

    # -- end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Log how many answers a new call can continue from."""
        if self._file is not None and trainer.is_global_zero:
            count = len(read_answers(self.folder(pl_module)))
            if count == 0:
                return
            log.warning("%d answers are in %s; call again to go on", count, self.folder(pl_module))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merge the files of all processes and log a summary."""
        if self._file is None:
            return
        folder = self.folder(pl_module)
        wait_for_others(trainer)  # all answers are written
        if trainer.is_global_zero:
            rows = read_predictions(folder)
            merge_predictions(folder, rows)
            asked = {question.key for question in pl_module.data.questions}
            self.rows = {prediction_key(row): row for row in rows if prediction_key(row) in asked}
            if self.format == "parquet":
                write_parquet(folder / PARQUET, list(self.rows.values()))
            failed = sum(row["error"] is not None for row in self.rows.values())
            log.info("%d answers, %d errors: %s", len(self.rows) - failed, failed, folder / "predictions.jsonl")
            doubtful = sum(bool(row.get("warnings")) for row in self.rows.values())
            if doubtful:
                (most,) = frequent_warnings(self.rows.values(), 1)
                log.info("%d rows have `warnings`; the most frequent: %s", doubtful, most)
            limits = {"predict": trainer.limit_predict_batches, "validate": trainer.limit_val_batches}
            self.lost = len(asked) - len(self.rows) if limits[trainer.state.fn.value] == 1.0 else 0
            if pl_module.data.shard is not None:
                self._write_shard(trainer.state.fn.value, pl_module, pl_module.data)
            if self.lost:
                log.error("%d of %d questions have no row in %s: call again", self.lost, len(asked), folder)
        wait_for_others(trainer)  # predictions are merged

    def _write_shard(self, verb: str, pl_module: VideoQA, data: QuestionSource) -> None:
        """Say that the shard's run has ended, with what `merge` writes into the results of all shards."""
        fingerprint = {**pl_module.fingerprint, "prompts": _prompts_hash(data.table)}
        about = {"verb": verb, "macro": data.macro, "absent_below": pl_module.options.absent_below}
        data.shard.write(self.folder(pl_module), **about, fingerprint=fingerprint)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merge the files of all processes, and write the results."""
        self.on_predict_end(trainer, pl_module)
        if self._file is not None and trainer.is_global_zero:
            data, folder = pl_module.data, self.folder(pl_module)
            fingerprint = {**pl_module.fingerprint, "prompts": _prompts_hash(data.questions)}
            made_by = Provenance(self._settings(pl_module), fingerprint, data.macro, pl_module.options.absent_below)
            asked = [question.key for question in data.questions]
            self.results = write_results(folder, folder.name, list(self.rows.values()), asked, made_by)


def _prompts_hash(questions: list[VideoQuestion]) -> str:
    return text_hash([question.text for question in questions])


def _log_reworded(rows: list[dict[str, Any]], questions: dict[tuple[str, str, str], VideoQuestion]) -> None:
    """Log if a question was reworded under the same id: the file then has rows of both questions."""
    asked = {key[:2] for key in questions}
    old = [row for row in rows if prediction_key(row) not in questions and prediction_key(row)[:2] in asked]
    if old:
        message = (
            "%d earlier answers have the id and video of a question whose text has changed, which is asked again; "
        )
        message += "the earlier answers stay in predictions.jsonl (the first: id %s, %r)"
        log.info(message, len(old), old[0]["id"], old[0]["question"])
