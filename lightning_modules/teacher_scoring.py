"""Predict: the teacher's scores of a data set, written once for any number of trainings."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule

from flexselect.contracts import TrainingClip, TrainingSource
from flexselect.engine.encoding import encode
from flexselect.families.base import VideoFamily, VideoLM
from flexselect.storage.run_settings import UsageError
from flexselect.storage.score_store import ScoreStore, ScoreWriter
from flexselect.training.teacher import Teacher

log = logging.getLogger(__name__)


class TeacherScoring(LightningModule):
    """Writes the scores of each clip of the data module's annotations, training's and validation's, to `--output_dir`.

    A run that was stopped goes on where it stopped; each process writes files of its own. A clip that cannot be used is
    written down with its reason.

    Args:
        family: of the teacher.
        options: see `flexselect.options.ScoringOptions`.
    """

    def __init__(self, family: VideoFamily, **options: Any) -> None:
        super().__init__()
        self.teacher = Teacher(family, **options)
        self.failed = 0  # clips without scores, of this process
        self._lm: VideoLM | None = None
        self._writer: ScoreWriter | None = None

    def setup(self, stage: str) -> None:
        """Begin a store, or go on with one.

        Raises:
            UsageError: for a store of other settings, or another verb than predict.
        """
        if stage != "predict":
            raise UsageError("teacher scores are written by `predict`")
        folder, data = Path(self.trainer.default_root_dir), self.data
        settings = {**self.teacher.settings(data.query), **data.reading.settings}
        if self.trainer.is_global_zero:
            ScoreStore.create(folder, settings)
        self.trainer.strategy.barrier("the store is begun")
        store = ScoreStore(folder)
        store.match(settings)
        data.skip(store.scored)
        if store.scored:
            log.info("%d clips were scored by an earlier run", len(store.scored))
        self._writer = store.writer(self.trainer.global_rank)

    @property
    def data(self) -> TrainingSource:
        """Where the clips come from."""
        return self.trainer.datamodule

    def configure_model(self) -> None:
        """Load the teacher onto this process's device, once."""
        if self._lm is None:
            self._lm = self.teacher.load(self.trainer.strategy.root_device)

    def predict_step(self, clips: list[TrainingClip]) -> int:
        """Write the scores of a video's clips, one a question, or why there are none; how many were looked at."""
        assert self._lm is not None and self._writer is not None
        usable = [(clip.key, clip.prompt) for clip in clips if clip.prompt is not None]
        reasons = {clip.key: clip.left_out[0] for clip in clips if clip.prompt is None}
        try:
            if usable:
                video = encode(self._lm, usable[0][1])  # the same for all
                queries = [prompt.query_ids for _, prompt in usable]
                for (key, _), scores in zip(usable, self.teacher.scores(self._lm, [video] * len(queries), queries)):
                    self._writer.add(key, scores)
        except (ValueError, torch.OutOfMemoryError) as error:
            reasons |= {key: str(error) for key, _ in usable}
        for key, reason in reasons.items():
            self._writer.fail(key, reason)
            self.failed += 1
        for reason in set(reasons.values()):
            log.warning("not scored: %s", reason)
        return len(clips)

    def on_predict_end(self) -> None:
        """Say what there is now."""
        self.trainer.strategy.barrier("all scores are written")
        if self.trainer.is_global_zero:
            folder = Path(self.trainer.default_root_dir)
            log.info("%d clips have scores, %d have none: %s", *ScoreStore(folder).counts, folder)
