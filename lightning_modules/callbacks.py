"""What is written and shown while questions are answered."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from tqdm import tqdm

from flexselect.fingerprint import text_hash
from flexselect.results import prediction_key, ranges, read_predictions, summarise, table, videos_seen
from flexselect.settings import UsageError, match_settings, write_whole
from lightning_modules.question_files import QuestionFiles
from lightning_modules.video_qa import VideoQA

log = logging.getLogger(__name__)


class PredictionWriter(Callback):
    """Writes each answer as it comes, and lets a stopped run go on where it stopped.

    `predictions.jsonl` gets one line a question; `validate` also writes `results.json`. Questions answered by an
    earlier run with the same settings are skipped; those that failed are asked again. With several processes each
    writes a file of its own, merged at the end.

    Args:
        output_dir: where to; None: a folder under outputs/ named after the settings, so that two settings never mix.
    """

    def __init__(self, output_dir: str | None = None) -> None:
        self.output_dir = output_dir
        self.rows: dict[tuple[str, str, str], dict[str, Any]] = {}  # of this run's questions, earlier answers included
        self._file: Path | None = None  # set where questions are answered

    # -- begin

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read what an earlier run has answered, and leave it out."""
        if stage not in ("predict", "validate") or not isinstance(pl_module, VideoQA):
            return
        videos = {question.video for question in trainer.datamodule.questions}
        if len(videos) < trainer.world_size:
            few = f"{trainer.world_size} processes cannot share {len(videos)} videos"
            raise UsageError(f"{few}: give --trainer.devices {len(videos)}")
        folder = self.folder(pl_module)
        folder.mkdir(parents=True, exist_ok=True)
        if trainer.is_global_zero:
            match_settings(folder / "settings.json", self._settings(pl_module), "answers of a run")
        asked = {question.key for question in trainer.datamodule.questions}
        extras = [callback for callback in trainer.callbacks if isinstance(callback, QuestionFiles)]
        for extra in extras:
            extra.folder = folder
        kept = [row for row in read_predictions(folder) if row["error"] is None]
        trainer.strategy.barrier("predictions are read")
        if trainer.is_global_zero:
            _merge(folder, kept)
        done = [row for row in kept if all(extra.path(row).exists() for extra in extras)]
        pl_module.answered = {prediction_key(row): row for row in done if prediction_key(row) in asked}
        trainer.datamodule.skip(pl_module.answered)
        if pl_module.answered:
            log.info("%d of %d questions were answered by an earlier run", len(pl_module.answered), len(asked))
        trainer.strategy.barrier("predictions are merged")
        self._file = folder / ("predictions.jsonl" if trainer.world_size == 1 else f"part-{trainer.global_rank}.jsonl")

    def folder(self, pl_module: LightningModule) -> Path:
        """Where this run writes."""
        if self.output_dir is not None:
            return Path(self.output_dir)
        settings = json.dumps(self._settings(pl_module), sort_keys=True)
        name = f"{Path(pl_module.hparams.selector or 'dense').name}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"
        return Path("outputs") / name

    def _settings(self, pl_module: VideoQA) -> dict[str, Any]:
        """All that decides an answer: of the model, and of how questions are put."""
        return {**pl_module.settings, **pl_module.trainer.datamodule.settings}

    # -- one answer

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: dict[str, Any], *_: Any, **__: Any
    ) -> None:
        """Write each answer at once: a kill loses the one at work."""
        if self._file is None:
            return
        self.rows[prediction_key(outputs)] = outputs
        if outputs != pl_module.answered.get(prediction_key(outputs)):
            self.write(outputs)

    on_validation_batch_end = on_predict_batch_end

    def write(self, row: dict[str, Any]) -> None:
        """Append one line."""
        assert self._file is not None
        try:
            with self._file.open("a") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        except OSError as error:
            raise OSError(f"{self._file}: {error.strerror}; what was written stays, call again to go on") from error
        if row["error"]:
            log.warning("%s: %s", row["id"], row["error"])

    # -- end

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merge the processes' files; say what was done."""
        if self._file is None:
            return
        folder = self.folder(pl_module)
        trainer.strategy.barrier("all answers are written")
        if trainer.is_global_zero:
            rows = read_predictions(folder)
            _merge(folder, rows)
            asked = {question.key for question in trainer.datamodule.questions}
            self.rows = {prediction_key(row): row for row in rows if prediction_key(row) in asked}
            failed = sum(row["error"] is not None for row in self.rows.values())
            log.info("%d answers, %d errors: %s", len(self.rows) - failed, failed, folder / "predictions.jsonl")
        trainer.strategy.barrier("predictions are merged")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As predict, and the results in one file."""
        self.on_predict_end(trainer, pl_module)
        if self._file is not None and trainer.is_global_zero:
            data, folder = trainer.datamodule, self.folder(pl_module)
            asked = [question.text for question in data.questions]
            videos = videos_seen(self.rows.values())
            fingerprint = {**pl_module.fingerprint, "prompts": text_hash(asked), **ranges(videos.values())}
            results = summarise(list(self.rows.values()), data.macro)
            results |= {"settings": self._settings(pl_module), "fingerprint": fingerprint, "videos": videos}
            write_whole(folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False))
            write_whole(folder / "results.md", table(results, folder.name))


class QuestionProgressBar(TQDMProgressBar):
    """The bar counts questions, and says how many videos are done."""

    def __init__(self) -> None:
        super().__init__()
        self._videos: set[str] = set()
        self._errors = 0
        self._total: int | None = None  # videos of the run, counted once

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, *step: Any) -> None:
        """One question more."""
        super().on_predict_batch_end(trainer, pl_module, *step)
        if isinstance(pl_module, VideoQA):
            self._show(self.predict_progress_bar, trainer, step[0])

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *step: Any) -> None:
        """One question more."""
        super().on_validation_batch_end(trainer, pl_module, *step)
        if isinstance(pl_module, VideoQA):
            self._show(self.val_progress_bar, trainer, step[0])

    def _show(self, bar: tqdm, trainer: Trainer, row: dict[str, Any]) -> None:
        self._videos.add(row["video"])
        self._errors += row["error"] is not None
        if self._total is None:
            self._total = len({question.video for question in trainer.datamodule.questions})
        bar.set_postfix_str(f"videos {len(self._videos)}/{self._total}, errors {self._errors}")


def _merge(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Make predictions.jsonl hold just these rows, in one step: a kill leaves the old file or the new one."""
    write_whole(folder / "predictions.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    for part in folder.glob("part-*.jsonl"):
        part.unlink()
