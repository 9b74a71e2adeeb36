"""What every data module of questions does: grouped by video, decoded ahead, shared out over processes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, get_worker_info

from datamodules.processes import keep_frames_on_cpu, rank_and_world_size
from datamodules.video import VideoError, open_video
from flexselect.contracts import QuestionItem
from flexselect.evaluation.questions import VideoQuestion
from flexselect.families.base import VideoFamily
from flexselect.families.prompter import Prompter
from flexselect.storage.feature_cache import FeatureCache
from flexselect.storage.file_hash import file_hash
from flexselect.storage.video_paths import resolve_path, size_of
from flexselect.structures.frames import ReadOptions


class QuestionData(LightningDataModule):
    """Questions for validate and predict.

    Questions about one video come one after another; its frames are decoded once, in a worker, while the video before
    it is being answered.

    Args:
        family: samples and resizes the frames.
        questions: all of them; their videos are relative to `video_root`.
        video_root: a folder.
        num_workers: processes that decode ahead, a whole clip in memory each; 0 decodes in the main process, a few
            frames at a time.

    Attributes:
        answered: keys of questions that an earlier run has answered.
    """

    macro: str | None = None  # the group whose shares are averaged into the accuracy; None: all questions count alike

    def __init__(self, family: VideoFamily, questions: list[VideoQuestion], video_root: str, num_workers: int) -> None:
        super().__init__()
        self.family, self.video_root, self.num_workers = family, video_root, num_workers
        self.questions = group_by_video(questions)
        self.answered: set[tuple[str, str, str]] = set()
        self.cache: FeatureCache | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What decides how questions are put, beside the annotations themselves."""
        return {}

    def skip(self, answered: Iterable[tuple[str, str, str]]) -> None:
        """Decode no video for questions that an earlier run has answered; they pass through without a clip.

        Args:
            answered: their keys (`VideoQuestion.key`).
        """
        self.answered = set(answered)

    def use_cache(self, cache: FeatureCache) -> None:
        """Decode no video whose features are in the cache."""
        self.cache = cache

    def hash_of(self, video: str) -> str | None:
        """Hash of a video's file as it is now; None where it cannot be read."""
        try:
            return file_hash(resolve_path(video, self.video_root))
        except (OSError, ValueError):
            return None

    def predict_dataloader(self) -> DataLoader:
        """One `QuestionItem` a step, in the order of the videos."""
        rank, world = rank_and_world_size(self.trainer)
        mine = shard(self.questions, rank, world, self.work())
        items = _Items(self.family, mine, self.answered, Path(self.video_root), self.cache)
        return DataLoader(items, batch_size=None, num_workers=self.num_workers)

    val_dataloader = predict_dataloader
    transfer_batch_to_device = keep_frames_on_cpu

    def work(self) -> dict[str, float]:
        """A measure of what each video costs: its share of all bytes, and of all questions that are still open.

        The size stands for the length, which only opening a file would tell.
        """
        videos = dict.fromkeys(question.video for question in self.questions)
        asked = Counter(question.video for question in self.questions if question.key not in self.answered)
        sizes = {video: size_of(resolve_path(video, self.video_root)) for video in videos if asked[video]}
        bytes_, questions = sum(sizes.values()) or 1, sum(asked.values()) or 1
        return {video: sizes.get(video, 0) / bytes_ + asked[video] / questions for video in videos}


class _Items(Dataset):
    """Decodes a video at its first question that is still to be answered."""

    def __init__(
        self,
        family: VideoFamily,
        questions: list[VideoQuestion],
        answered: set[tuple[str, str, str]],
        root: Path,
        cache: FeatureCache | None,
    ) -> None:
        self.family, self.questions, self.root, self.cache = family, questions, root, cache
        self.prompter: Prompter | None = None  # built in the worker
        to_ask = {i: q.part for i, q in enumerate(questions) if q.key not in answered and q.error is None}
        self.openers = set({part: i for i, part in reversed(to_ask.items())}.values())

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> QuestionItem:
        question = self.questions[index]
        if index not in self.openers:
            return QuestionItem(question)
        began, path = time.perf_counter(), resolve_path(question.video, self.root)
        item = QuestionItem(question, True, path=str(path))
        try:
            self.prompter = self.prompter or self.family.prompter()
            item = replace(item, **self._opened(path, question.reading, self.prompter), video_hash=file_hash(path))
        except VideoError as error:
            return replace(item, error=str(error), warnings=tuple(error.warnings), path=None)
        except (ValueError, OSError, RuntimeError, MemoryError) as error:  # one bad video never stops the run
            return replace(item, error=f"{question.video}: {type(error).__name__}: {error}", path=None)
        return replace(item, decode_seconds=time.perf_counter() - began)

    def _opened(self, path: Path, reading: ReadOptions, prompter: Prompter) -> dict[str, Any]:
        """What there is of a video: its features, or its frames as they come, or all of them."""
        encoded = self.cache.get(path, prompter.prefix_ids, reading) if self.cache else None
        if encoded is not None:
            return {"encoded": encoded}
        stream = open_video(path, self.family.sample, prompter.resize, reading)
        if get_worker_info() is None:  # decoded while the tower looks at it
            return {"stream": stream}
        return {"clip": replace(prompter.clip(stream.all_frames(), stream.seconds), about=stream.about)}


def group_by_video(questions: list[VideoQuestion]) -> list[VideoQuestion]:
    """Bring questions about one video together, and those about one part of it, in the order of the first ones."""
    videos = {video: i for i, video in enumerate(dict.fromkeys(question.video for question in questions))}
    parts = {part: i for i, part in enumerate(dict.fromkeys(question.part for question in questions))}
    return sorted(questions, key=lambda question: (videos[question.video], parts[question.part]))


def shard(questions: list[VideoQuestion], rank: int, world: int, work: dict[str, float]) -> list[VideoQuestion]:
    """One process's videos, whole ones: no video is decoded twice, no question doubled, none without a process.

    The most work first, each to the process that has the least: at most a third longer than the best there is (Graham,
    1969). Each process gets a video, if there are as many.

    Args:
        questions: all of them.
        rank: this process.
        world: of how many.
        work: of each video.
    """
    loads, mine = [0.0] * world, set()
    for video in sorted(work, key=lambda video: -work[video]):
        least = loads.index(min(loads))
        loads[least] += work[video] + 1e-9  # also what costs nothing is shared out
        if least == rank:
            mine.add(video)
    return [question for question in questions if question.video in mine]
