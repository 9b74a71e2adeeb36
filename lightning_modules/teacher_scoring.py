"""Compute the teacher's scores of a data set, once for any number of trainings (verb `predict`)."""

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
from flexselect.storage.shard import FILE as SHARD_FILE
from flexselect.training.teacher import Teacher
from lightning_modules.waiting import wait_for_others

log = logging.getLogger(__name__)


class TeacherScoring(LightningModule):
    """Module that writes the teacher's scores of all clips, for training and validation, to `--output_dir`.

    If an interrupted run is called again, it continues. Each process writes separate files. For a clip that cannot be
    used, the reason is written.

    Args:
        family: the family of the teacher.
        options: see `flexselect.options.ScoringOptions`.
    """

    def __init__(self, family: VideoFamily, **options: Any) -> None:
        super().__init__()
        self.teacher = Teacher(family, **options)
        self.failed = 0  # clips of this process without scores
        self._lm: VideoLM | None = None
        self._writer: ScoreWriter | None = None

    def setup(self, stage: str) -> None:
        """Open the store, or create it.

        Raises:
            UsageError: if the store has other settings, or the verb is not predict.
        """
        if stage != "predict":
            raise UsageError("teacher scores are written by `predict`")
        folder, data = Path(self.trainer.default_root_dir), self.data
        settings = {**self.teacher.settings(data.query), **data.reading.settings}
        if data.shard is not None:
            settings["shard"] = data.shard.name
        if self.trainer.is_global_zero:
            ScoreStore.create(folder, settings)
            (folder / SHARD_FILE).unlink(missing_ok=True)  # until this run has ended too
        wait_for_others(self.trainer)  # the store is created
        store = ScoreStore(folder)
        store.match(settings)
        data.skip(store.scored)
        if store.scored:
            log.info("%d clips were scored by an earlier run", len(store.scored))
        self._writer = store.writer(self.trainer.global_rank)

    @property
    def data(self) -> TrainingSource:
        """The data module."""
        return self.trainer.datamodule

    def configure_model(self) -> None:
        """Load the teacher onto this process's device, once."""
        if self._lm is None:
            self._lm = self.teacher.load(self.trainer.strategy.root_device)

    def predict_step(self, clips: list[TrainingClip]) -> int:
        """Write the scores of all clips of one video, or why there are none; return the number of clips."""
        assert self._lm is not None and self._writer is not None
        usable = [(clip.key, clip.prompt) for clip in clips if clip.prompt is not None]
        reasons = {clip.key: clip.left_out[0] for clip in clips if clip.prompt is None}
        try:
            if usable:
                video = encode(self._lm, usable[0][1])  # one encoding serves all clips of the video
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
        """Log how many clips have scores."""
        wait_for_others(self.trainer)  # all scores are written
        if self.trainer.is_global_zero:
            folder = Path(self.trainer.default_root_dir)
            if self.data.shard is not None:
                self.data.shard.write(folder, verb="score")
            log.info("%d clips have scores, %d have none: %s", *ScoreStore(folder).counts, folder)


def check_store(data: TrainingSource, teacher: Teacher) -> None:
    """Check the stored scores that a training would use.

    Raises:
        UsageError: if they are from another teacher, or do not cover all clips.
    """
    assert data.store is not None
    data.store.match({**teacher.settings(data.query), **data.reading.settings})
    missing = data.unscored()
    if missing:
        raise UsageError(
            f"{data.store.folder} lacks the teacher scores of {len(missing)} clips, for example {missing[0]}: "
            "complete it with `predict` and the same annotations"
        )
