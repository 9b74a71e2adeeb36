"""Callbacks that write more files for each answered question: pictures, and data for the report."""

from __future__ import annotations

import json
import logging
import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from flexselect.contracts import QuestionItem
from flexselect.evaluation.results import prediction_key, read_predictions, short_key
from flexselect.evidence.moments import player_offset
from flexselect.evidence.subtitles import ENDINGS, FORMATS
from flexselect.storage.run_settings import UsageError, read_json_object, write_atomically
from flexselect.structures.answer import cited_moments
from flexselect.visualize.style import check_matplotlib, question_title
from lightning_modules.video_qa import VideoQA

log = logging.getLogger(__name__)


class QuestionFiles(Callback, ABC):
    """Callback that writes a file for each answered question; a question without this file is asked again.

    `PredictionWriter` runs first and sets `folder`.
    """

    folder = Path()

    @abstractmethod
    def path(self, row: dict[str, Any]) -> Path:
        """Return the file that exists once a question is done."""

    @abstractmethod
    def write(self, row: dict[str, Any], module: VideoQA, item: QuestionItem) -> None:
        """Write the file; the module has just answered."""

    # Final: subclasses do not override these methods.

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: dict[str, Any],
        batch: QuestionItem,
        *_: Any,
        **__: Any,
    ) -> None:
        """Write after an answer; if the video cannot be read again, warn and continue."""
        if not isinstance(pl_module, VideoQA) or pl_module.answer is None:
            return
        path = self.path(outputs)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.write(outputs, pl_module, batch)
        except ValueError as error:
            log.warning("%s: nothing is drawn: %s", outputs["id"], error)
        except OSError as error:
            raise OSError(f"{path}: {error.strerror or error}; what was written stays, call again to go on") from error

    on_validation_batch_end = on_predict_batch_end


class QuestionPictures(QuestionFiles):
    """Callback of the verb `visualize`: draws all pictures of each question into a folder under `pictures/`.

    Args:
        units: number of units in a picture.
    """

    def __init__(self, units: int = 12) -> None:
        self.units = units

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that pictures can be drawn, before any question is asked."""
        check_matplotlib()
        if not isinstance(pl_module, VideoQA) or pl_module.hparams.selector is None:
            raise UsageError(
                "dense shows every token, there is nothing to draw: give --model.selector self, or another"
            )

    def path(self, row: dict[str, Any]) -> Path:
        """Return the picture that is drawn last and for every question."""
        return self.folder / "pictures" / file_name(row) / "states_by_layer.png"

    def write(self, row: dict[str, Any], module: VideoQA, item: QuestionItem) -> None:
        """Draw the pictures of one question."""
        from flexselect.visualize import draw_all

        assert module.session is not None and module.answer is not None and module.answer.selection is not None
        title = question_title(row["question"], row["answer"])
        folder = self.path(row).parent
        draw_all(folder, module.session, item.question.text, module.answer.selection, title, self.units)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the folder."""
        if trainer.is_global_zero and (self.folder / "pictures").is_dir():
            log.info("%s", self.folder / "pictures")


class Report(QuestionFiles):
    """Callback of the option `--report`: writes `report.html`, one self-contained page about the whole run.

    The data of each question is kept under `report/`, so that an interrupted run can complete its page.
    """

    def path(self, row: dict[str, Any]) -> Path:
        """Return the file with a question's data for the page."""
        return self.folder / "report" / f"{file_name(row)}.json"

    def write(self, row: dict[str, Any], module: VideoQA, item: QuestionItem) -> None:
        """Save small versions of the most relevant frames."""
        from flexselect.visualize.report import collect_evidence

        assert module.session is not None and module.answer is not None
        write_atomically(self.path(row), json.dumps(collect_evidence(module.session, module.answer.selection)))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the page."""
        if not trainer.is_global_zero or not isinstance(pl_module, VideoQA):
            return
        from flexselect.visualize.report import write_report

        verb = trainer.state.fn.value
        options = {question.key: list(question.options) for question in trainer.datamodule.questions}
        row_by_key = {prediction_key(row): row for row in read_predictions(self.folder)}
        rows = [{**row, "options": options[key]} for key, row in row_by_key.items() if key in options]
        results = read_json_object(self.folder / "results.json") if verb == "validate" else None
        settings = read_json_object(self.folder / "settings.json")
        fingerprint = results["fingerprint"] if results else pl_module.fingerprint
        provenance = {**settings, "fingerprint": fingerprint}
        page = self.folder / "report.html"
        write_report(page, f"{verb}: {self.folder.name}", rows, self._evidence, results, provenance)
        log.info("%s", page)

    on_validation_end = on_predict_end

    def _evidence(self, row: dict[str, Any]) -> dict[str, Any] | None:
        path = self.path(row)
        return read_json_object(path) if path.is_file() else None


class MomentFiles(QuestionFiles):
    """Callback of the option `--moments`: writes the moments of each answer into a file for video players.

    Args:
        kind: "vtt" (WebVTT) or "chapters" (ffmpeg's metadata).
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def path(self, row: dict[str, Any]) -> Path:
        """Return the file of a question's moments."""
        return self.folder / "moments" / f"{file_name(row)}.{ENDINGS[self.kind]}"

    def write(self, row: dict[str, Any], module: VideoQA, item: QuestionItem) -> None:
        """Write the moments of one answer, the cited ones if they were verified; there may be none."""
        moments = cited_moments(row)
        text = FORMATS[self.kind](row["question"], row["answer"], moments, player_offset(row["sampling"]))
        write_atomically(self.path(row), text)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the folder."""
        if trainer.is_global_zero and (self.folder / "moments").is_dir():
            log.info("%s", self.folder / "moments")

    on_validation_end = on_predict_end


def file_name(row: dict[str, Any]) -> str:
    """Return a file name for a question: its id, as far as file systems allow, and a hash of its key."""
    readable = re.sub(r"[^\w.-]+", "_", row["id"])[:60]
    return f"{readable}-{short_key(prediction_key(row))[:8]}"
