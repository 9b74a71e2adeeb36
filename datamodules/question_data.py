"""Base of all data modules with questions: group by video, decode ahead, divide among processes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, get_worker_info

from datamodules.processes import keep_frames_on_cpu, rank_and_world_size, start_worker
from datamodules.processor_cores import workers
from datamodules.video import VideoError
from flexselect.contracts import QuestionItem, QuestionSource
from flexselect.evaluation.questions import VideoQuestion
from flexselect.evaluation.results import short_key
from flexselect.families.base import VideoFamily
from flexselect.families.prompter import Prompter
from flexselect.loading.fingerprint import text_hash
from flexselect.storage.feature_cache import FeatureCache
from flexselect.storage.file_hash import file_hash
from flexselect.storage.shard import Shard
from flexselect.storage.video_paths import resolve_path, size_of
from flexselect.structures.frames import ReadOptions, stream_of_file


class QuestionData(LightningDataModule):
    """Questions for validate and predict.

    Questions about one video are consecutive. A worker decodes the video once, while the model answers questions about
    the previous one.

    Args:
        family: samples and resizes the frames.
        questions: all questions; their videos are relative to `video_root`.
        video_root: folder of the videos.
        num_workers: number of processes that decode ahead, each with one clip in memory; 0: the main process decodes, a
            few frames at a time; None: from the number of cores, at most 4.
        shard: "i/n": only the questions about every n-th video, for one of n runs that share a table; None: all.

    Attributes:
        answered: keys (`VideoQuestion.key`) of questions that an earlier run answered.
    """

    macro: str | None = None  # accuracy is the mean over the values of this group; None: over all questions

    def __init__(
        self,
        family: VideoFamily,
        questions: list[VideoQuestion],
        video_root: str,
        num_workers: int | None,
        shard: str | None = None,
    ) -> None:
        super().__init__()
        self.family, self.video_root, self.num_workers = family, video_root, num_workers
        self.table = group_by_video(questions)
        self.shard = None if shard is None else shard_of_questions(shard, self.table)
        self.questions = self.table if self.shard is None else [self.table[i] for i in self.shard.positions.values()]
        self.answered: set[tuple[str, str, str]] = set()
        self.cache: FeatureCache | None = None
        self.only_streams = False

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that change how questions are asked, besides the annotations."""
        return {}

    def skip(self, answered: Iterable[tuple[str, str, str]]) -> None:
        """Mark questions that an earlier run answered: they pass through without a clip.

        Args:
            answered: keys of the questions (`VideoQuestion.key`).
        """
        self.answered = set(answered)

    def use_cache(self, cache: FeatureCache) -> None:
        """Take features from the cache instead of decoding a video."""
        self.cache = cache

    def stream_only(self) -> None:
        """Hand over videos before they are decoded: the model reads some of their frames only."""
        self.only_streams = True

    def hash_of(self, video: str) -> str | None:
        """Return the current hash of a video's file; None if it cannot be read."""
        try:
            return file_hash(resolve_path(video, self.video_root))
        except (OSError, ValueError):
            return None

    def predict_dataloader(self) -> DataLoader:
        """Return a loader that yields one `QuestionItem` per step, grouped by video."""
        rank, world = rank_and_world_size(self.trainer)
        share = share_of_process(self.questions, rank, world, self.work())
        items = _Items(self.family, share, self.answered, Path(self.video_root), self.cache)
        ahead = 0 if self.only_streams else workers(self.num_workers)  # a process cannot send a stream
        return DataLoader(items, batch_size=None, num_workers=ahead, worker_init_fn=start_worker)

    val_dataloader = predict_dataloader
    transfer_batch_to_device = keep_frames_on_cpu

    def work(self) -> dict[str, float]:
        """Estimate the cost of each video: its share of all bytes plus its share of all open questions.

        The file size stands for the length, which is known only after opening the file.
        """
        videos = dict.fromkeys(question.video for question in self.questions)
        asked = Counter(question.video for question in self.questions if question.key not in self.answered)
        sizes = {video: size_of(resolve_path(video, self.video_root)) for video in videos if asked[video]}
        bytes_, questions = sum(sizes.values()) or 1, sum(asked.values()) or 1
        return {video: sizes.get(video, 0) / bytes_ + asked[video] / questions for video in videos}


class _Items(Dataset):
    """Decodes a video at its first open question."""

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
        except (ValueError, OSError, RuntimeError, MemoryError) as error:  # one bad video must not stop the run
            return replace(item, error=f"{question.video}: {type(error).__name__}: {error}", path=None)
        return replace(item, decode_seconds=time.perf_counter() - began)

    def _opened(self, path: Path, reading: ReadOptions, prompter: Prompter) -> dict[str, Any]:
        """Open a video: return its cached features, a stream of frames, or a decoded clip."""
        encoded = self.cache.get(path, prompter.prefix_ids, reading) if self.cache else None
        if encoded is not None:
            return {"encoded": encoded}
        stream = stream_of_file(str(path), self.family.sample, prompter.resize, self.family.reading(reading))
        if get_worker_info() is None:  # the main process decodes while the tower encodes
            return {"stream": stream}
        return {"clip": replace(prompter.clip(stream.all_frames(), stream.seconds), about=stream.about)}


def group_by_video(questions: list[VideoQuestion]) -> list[VideoQuestion]:
    """Group questions by video, then by part of the video; groups stay in the order of their first question."""
    videos = {video: i for i, video in enumerate(dict.fromkeys(question.video for question in questions))}
    parts = {part: i for i, part in enumerate(dict.fromkeys(question.part for question in questions))}
    return sorted(questions, key=lambda question: (videos[question.video], parts[question.part]))


def shard_of_questions(name: str, table: list[VideoQuestion]) -> Shard:
    """Choose the questions of one of several runs that share a table. It does not depend on what is answered.

    Args:
        name: "i/n", see `Shard.of`.
        table: all questions, grouped by video.
    """
    rows = [(question.video, short_key(question.key)) for question in table]
    return Shard.of(name, text_hash([repr(question) for question in table]), rows)


def share_of_process(
    questions: list[VideoQuestion], rank: int, world: int, work: dict[str, float]
) -> list[VideoQuestion]:
    """Return the questions of one process of a run. A video's questions stay together, so that it is decoded once.

    Videos are assigned in order of decreasing work, each to the process with the least work so far: the run takes at
    most a third longer than the optimum (Graham, 1969). Each process gets a video if there are enough.

    Args:
        questions: all questions.
        rank: number of this process.
        world: number of processes.
        work: estimated cost of each video.
    """
    loads, videos = [0.0] * world, set()
    for video in sorted(work, key=lambda video: -work[video]):
        least = loads.index(min(loads))
        loads[least] += work[video] + 1e-9  # a video of 0 bytes must be assigned too
        if least == rank:
            videos.add(video)
    return [question for question in questions if question.video in videos]


_: type[QuestionSource] = QuestionData  # mypy holds it to its contract
