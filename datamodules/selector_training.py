"""Clips with questions for training a selector, with or without stored teacher scores."""

from __future__ import annotations

from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from datamodules.annotations import Record, RecordRules, read_records
from datamodules.epoch_order import EpochOrder, ResumableLoader
from datamodules.processes import keep_frames_on_cpu, rank_and_world_size, start_worker
from datamodules.processor_cores import workers
from datamodules.video import VideoError, probe
from flexselect.contracts import TrainingClip, TrainingSource
from flexselect.families.base import VideoFamily
from flexselect.loading.fingerprint import text_hash
from flexselect.storage.run_settings import UsageError
from flexselect.storage.score_store import ScoreStore
from flexselect.storage.shard import Shard
from flexselect.structures.frames import ReadOptions, stream_of_file
from flexselect.structures.prompt import VideoClip, VideoPrompt


class SelectorDataModule(LightningDataModule):
    """Clips for fit, validate, and predict (writing teacher scores).

    If a clip cannot be used, the next one in the file replaces it, the same in every run; the reason is recorded.

    Args:
        family: samples and resizes frames and makes prompts; `fps: .inf` takes `max_frames` frames evenly.
        annotations: annotations for fit, see `read_records`.
        val_annotations: annotations for validate; None: no validation.
        video_root: folder that `video` is relative to; None: the annotation file's folder.
        batch_size: clips per step and process. Above 1, batches have clips of equal shape if possible, so each video's
            header is read at the start.
        query: the text after the clip, for teacher and selector: "question", as when answering, or
            "question_and_answer", as the released training.
        teacher_scores: folder of stored scores; None: the teacher scores clips during training.
        num_workers: number of processes that decode; None: from the number of cores, at most 4.
        seed: seed of sampling and order.
        turns: questions of a conversation to use, "first" or "all".
        unusable: "refuse" a file with rows that are not questions about a video, or "skip" and count these rows.
        columns: maps our names (video, question, answer, conversations) to the names in the file.
        encoding: encoding of text files; None: detected from the first bytes.
        track: number among a file's video tracks, from 0; None: the one that players show.
        square_pixels: stretch pixels that are not square, as players do.
        reader: what decodes files: "pyav", "decord", "torchcodec", or a reader of another package.
        shard: score only the clips of the i-th of n parts, "i/n" with i from 1 (`predict` only); see `merge`.
    """

    def __init__(
        self,
        family: VideoFamily,
        annotations: str | None = None,
        val_annotations: str | None = None,
        video_root: str | None = None,
        batch_size: int = 1,
        query: Literal["question", "question_and_answer"] = "question",
        teacher_scores: str | None = None,
        num_workers: int | None = None,
        seed: int = 0,
        turns: Literal["first", "all"] = "first",
        unusable: Literal["refuse", "skip"] = "refuse",
        columns: dict[str, str] | None = None,
        encoding: str | None = None,
        track: int | None = None,
        square_pixels: bool = True,
        reader: str = "pyav",
        shard: str | None = None,
    ) -> None:
        super().__init__()
        if annotations is None and val_annotations is None:
            raise ValueError("give --data.annotations FILE for fit, or --data.val_annotations FILE for validate")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.family, self.batch_size, self.query = family, batch_size, query
        self.num_workers, self.seed = num_workers, seed
        self.reading = ReadOptions(track=track, square_pixels=square_pixels, reader=reader)
        rules = RecordRules(turns, unusable, columns or {}, encoding, query == "question_and_answer")
        self.records = read_records(annotations, video_root, seed, rules) if annotations else []
        self.val_records = read_records(val_annotations, video_root, seed, rules) if val_annotations else []
        self.store = ScoreStore(teacher_scores) if teacher_scores else None
        self.scored: Container[str] = ()
        self.shard = None if shard is None else self._shard(shard)

    transfer_batch_to_device = keep_frames_on_cpu

    def setup(self, stage: str) -> None:
        """Refuse a shard of a training: each step needs clips of the whole table.

        Raises:
            UsageError: for any verb but predict.
        """
        if self.shard is not None and stage != "predict":
            raise UsageError("--data.shard divides the scoring of clips by `predict`; a training needs all clips")

    def key(self, record: Record) -> str:
        """Return the key of a record's scores in the store."""
        return record.key(self.query)

    def unscored(self) -> list[str]:
        """List the videos of clips without stored scores."""
        assert self.store is not None
        clips = {self.key(record): record.video for record in self.records + self.val_records}
        return [video for key, video in clips.items() if key not in self.store]

    def clips_by_video(self) -> dict[Path, dict[str, Record]]:
        """Return all clips, each once, by video and key."""
        videos: dict[Path, dict[str, Record]] = {}
        for record in self.records + self.val_records:
            videos.setdefault(record.path, {}).setdefault(self.key(record), record)
        return videos

    def _shard(self, name: str) -> Shard:
        """Choose the clips of one of several runs that share the scoring."""
        rows = [(video, key) for video, clips in self.clips_by_video().items() for key in clips]
        return Shard.of(name, text_hash([key for _, key in rows]), rows)

    def skip(self, scored: Container[str]) -> None:
        """Leave out clips in predict that an earlier run scored.

        Args:
            scored: keys of the clips.
        """
        self.scored = scored

    @property
    def num_train_batches(self) -> int:
        """Number of batches per epoch in this process."""
        return EpochOrder(len(self.records), self.batch_size, self.seed, self.trainer).num_batches

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that decide which clips a step uses."""
        clips_per_step = self.batch_size * rank_and_world_size(self.trainer)[1]
        settings = {"clips": len(self.records), "clips_a_step": clips_per_step, "seed": self.seed, "query": self.query}
        return {**settings, **self.reading.settings}

    def train_dataloader(self) -> DataLoader:
        """Return a loader that yields lists of `TrainingClip`.

        Raises:
            ValueError: if there are no annotations.
        """
        if not self.records:
            raise ValueError("nothing to train on: give --data.annotations FILE")
        shapes = read_shapes(self.records, self.family) if self.batch_size > 1 else None
        order = EpochOrder(len(self.records), self.batch_size, self.seed, self.trainer, shapes)
        return ResumableLoader(
            _Clips(self, self.records),
            batch_size=self.batch_size,
            sampler=order,
            collate_fn=_without_gaps,
            num_workers=workers(self.num_workers),
            worker_init_fn=start_worker,
        )

    def val_dataloader(self) -> DataLoader | list:
        """Return a loader in file order; all processes get equally many batches, as they wait for each other."""
        if not self.val_records:
            return []
        rank, world = rank_and_world_size(self.trainer)
        indices = list(range(len(self.val_records)))[rank::world]
        gaps = [_Clips.GAP] * (-(-len(self.val_records) // world) - len(indices))
        clips, size = _Clips(self, self.val_records), self.batch_size
        return DataLoader(
            clips,
            batch_size=size,
            sampler=indices + gaps,
            collate_fn=_without_gaps,
            num_workers=workers(self.num_workers),
            worker_init_fn=start_worker,
        )

    def predict_dataloader(self) -> DataLoader:
        """Return a loader that yields all unscored clips of one video per step; none are replaced."""
        rank, world = rank_and_world_size(self.trainer)
        steps = [
            [clip for key, clip in clips.items() if key not in self.scored and self._is_in_shard(key)]
            for clips in self.clips_by_video().values()
        ]
        share = list(filter(None, steps))[rank::world]
        number = workers(self.num_workers)
        return DataLoader(_Videos(self, share), batch_size=None, num_workers=number, worker_init_fn=start_worker)

    def _is_in_shard(self, key: str) -> bool:
        return self.shard is None or key in self.shard.positions


class _Reader:
    """Decodes records into clips with text, and adds stored teacher scores."""

    def __init__(self, data: SelectorDataModule) -> None:
        self.family, self.query, self.store, self.reading = data.family, data.query, data.store, data.reading
        self.prompter: Any = None  # built in the worker

    def clip(self, path: Path) -> VideoClip:
        """Decode a video.

        Raises:
            VideoError: for anything that is wrong with the video, since one bad clip must not stop the run.
        """
        self.prompter = self.prompter or self.family.prompter()
        try:
            reading = self.family.reading(self.reading)
            stream = stream_of_file(str(path), self.family.sample, self.prompter.resize, reading)
            return self.prompter.clip(stream.all_frames(), stream.seconds)
        except VideoError:
            raise
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            raise VideoError(path, f"{type(error).__name__}: {error}") from error

    def prompt(self, record: Record, clip: VideoClip) -> VideoPrompt:
        """Make a prompt of a record's clip and text."""
        query = self.prompter.query_ids(record.question)
        if self.query == "question_and_answer":
            query = torch.cat([query, self.prompter.answer_ids(record.answer)])
        return VideoPrompt(clip, self.prompter.prefix_ids, query)

    def training_clip(self, record: Record, left_out: tuple[str, ...]) -> TrainingClip:
        """Make the training clip of a record."""
        key = record.key(self.query)
        reason = None if self.store is None else self.store.error(key)
        if reason is not None:
            raise VideoError(record.path, f"has no teacher scores: {reason}")
        scores = None if self.store is None else self.store.read(key)
        return TrainingClip(key, self.prompt(record, self.clip(record.path)), scores, left_out)


class _Clips(Dataset):
    """Clips by number; a clip that cannot be used is replaced by the next one."""

    GAP = -1  # stands for no clip

    def __init__(self, data: SelectorDataModule, records: list[Record]) -> None:
        self.reader, self.records = _Reader(data), records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> TrainingClip | None:
        if index == self.GAP:
            return None
        left_out: list[str] = []
        for offset in range(len(self.records)):
            record = self.records[(index + offset) % len(self.records)]
            try:
                return self.reader.training_clip(record, tuple(left_out))
            except VideoError as error:
                left_out.append(str(error))
        raise ValueError(f"none of the {len(self.records)} clips can be used; the first: {left_out[0]}")


class _Videos(Dataset):
    """All clips of one video per item; if the video cannot be used, each clip has the reason."""

    def __init__(self, data: SelectorDataModule, videos: list[list[Record]]) -> None:
        self.reader, self.videos = _Reader(data), videos

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> list[TrainingClip]:
        records = self.videos[index]
        keys = [record.key(self.reader.query) for record in records]
        try:
            clip = self.reader.clip(records[0].path)
        except VideoError as error:
            return [TrainingClip(key, None, left_out=(str(error),)) for key in keys]
        return [TrainingClip(key, self.reader.prompt(record, clip)) for key, record in zip(keys, records)]


def _without_gaps(clips: list[TrainingClip | None]) -> list[TrainingClip]:
    return [clip for clip in clips if clip is not None]


def read_shapes(records: list[Record], family: VideoFamily) -> list[tuple[int, int, int]]:
    """Read each clip's number of sampled frames, height and width from its header; zeros if it cannot be opened."""

    def shape(path: Path) -> tuple[int, int, int]:
        try:
            info = probe(path)
        except VideoError:  # reported and counted when the clip is used
            return 0, 0, 0
        return info.num_sampled(family.sample), info.height, info.width

    paths = list({record.path: None for record in records})
    with ThreadPoolExecutor() as pool:
        known = dict(zip(paths, pool.map(shape, paths)))
    return [known[record.path] for record in records]


_: type[TrainingSource] = SelectorDataModule  # mypy holds it to its contract
