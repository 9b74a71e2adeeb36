"""Videos with questions, from annotation files, hub data sets or the command line; grouped by video."""

from __future__ import annotations

import ast
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from datamodules.rows import read_rows
from datamodules.video import VideoError, read_video
from flexselect.families.base import VideoFamily
from flexselect.questions import QuestionItem, VideoQuestion

REQUIRED = ("id", "video", "question")


class VideoQADataModule(LightningDataModule):
    """Questions for validate and predict.

    Give either `annotations`, or `video` with `question`. Questions about one video come one after another; its frames
    are decoded once, in a worker, while the video before it is being answered.

    Args:
        family: samples and resizes the frames.
        annotations: JSON, JSONL, CSV or Parquet with `id`, `video`, `question`, optional `options` and `answer`; or a
            hub data set, "owner/name" or "owner/name:split".
        video_root: folder that `video` is relative to; None: the annotation file's folder.
        video: one video file.
        question: one question about `video`, or several as a list.
        num_workers: processes that decode ahead; 0 decodes in the main process.
    """

    def __init__(
        self,
        family: VideoFamily,
        annotations: str | None = None,
        video_root: str | None = None,
        video: str | None = None,
        question: str | list[str] | None = None,
        num_workers: int = 1,
    ) -> None:
        super().__init__()
        if (annotations is None) == (video is None):
            raise ValueError("give either --data.annotations FILE, or --data.video FILE with --data.question TEXT")
        if (video is None) != (question is None):
            raise ValueError("--data.video and --data.question go together")
        self.family = family
        self.video_root = video_root
        self.num_workers = num_workers
        if annotations is not None:
            self.questions = group_by_video(read_annotations(annotations))
            self.video_root = video_root or str(Path(annotations).parent)
        else:
            asked = [question] if isinstance(question, str) else list(question or [])
            self.questions = [_checked({"id": str(i), "video": video, "question": q}) for i, q in enumerate(asked)]
            self.video_root = video_root or "."
        self.answered: set[tuple[str, str, str]] = set()

    def skip(self, answered: Iterable[tuple[str, str, str]]) -> None:
        """Decode no video for questions that an earlier run has answered; they pass through without a clip.

        Args:
            answered: their keys (`VideoQuestion.key`).
        """
        self.answered = set(answered)

    def predict_dataloader(self) -> DataLoader:
        """One `QuestionItem` a step, in the order of the videos."""
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        mine = share(self.questions, rank, world)
        items = _Items(self.family, mine, self.answered, Path(self.video_root or "."))
        return DataLoader(items, batch_size=None, num_workers=self.num_workers)

    val_dataloader = predict_dataloader

    def transfer_batch_to_device(self, batch: QuestionItem, device: torch.device, dataloader_idx: int) -> QuestionItem:
        """Leave frames where they are: the tower takes them chunk by chunk."""
        return batch


class _Items(Dataset):
    """Decodes a video at its first question that is still to be answered."""

    def __init__(
        self, family: VideoFamily, questions: list[VideoQuestion], answered: set[tuple[str, str, str]], root: Path
    ) -> None:
        self.family, self.questions, self.root = family, questions, root
        self.prompter = None  # built in the worker
        to_ask = {i: q.video for i, q in enumerate(questions) if q.key not in answered and q.error is None}
        self.openers = set({video: i for i, video in reversed(to_ask.items())}.values())

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> QuestionItem:
        question = self.questions[index]
        if index not in self.openers:
            return QuestionItem(question)
        began = time.perf_counter()
        try:
            self.prompter = self.prompter or self.family.prompter()
            frames, seconds = read_video(self.root / question.video, self.family.sample, self.prompter.resize)
            clip = self.prompter.clip(frames, seconds)
        except VideoError as error:
            return QuestionItem(question, opens=True, error=str(error))
        except (ValueError, OSError, RuntimeError, MemoryError) as error:  # one bad video never stops the run
            return QuestionItem(question, opens=True, error=f"{question.video}: {type(error).__name__}: {error}")
        return QuestionItem(question, True, clip, decode_seconds=time.perf_counter() - began)


def read_annotations(source: str) -> list[VideoQuestion]:
    """Read rows; one with a missing field is kept, with its `error` set.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that cannot be parsed at all, or holds no rows.
    """
    rows = read_rows(source)
    if not rows:
        raise ValueError(f"{source}: holds no rows")
    if not any(row.get(name) for row in rows for name in REQUIRED):
        raise ValueError(f"{source}: has no columns {', '.join(REQUIRED)}; found {', '.join(map(str, rows[0]))}")
    return _told_apart([_checked(row, number) for number, row in enumerate(rows)])


def _told_apart(questions: list[VideoQuestion]) -> list[VideoQuestion]:
    """A row that repeats another one is not asked twice: it gets an id of its own, and an error."""
    first: dict[tuple[str, str, str], int] = {}
    for i, question in enumerate(questions):
        if first.setdefault(question.key, i) != i:
            error = f"row {i + 1} of the annotations repeats id, video and question of row {first[question.key] + 1}"
            questions[i] = replace(question, id=f"{question.id}#row-{i + 1}", error=error)
    return questions


def _checked(row: dict[str, Any], number: int = 0) -> VideoQuestion:
    """A row as a question; what is missing is said in `error`."""
    missing = [name for name in REQUIRED if row.get(name) is None]
    error = f"row {number + 1} of the annotations has no {' and no '.join(missing)}" if missing else None
    if error is None and not str(row["question"]).strip():
        error = "the question is empty"
    answer = row.get("answer")
    try:
        options = _options(row.get("options"))
    except ValueError as problem:
        options, error = (), error or f"row {number + 1} of the annotations: {problem}"
    question = VideoQuestion(
        id=str(row.get("id") if row.get("id") is not None else f"row-{number + 1}"),
        video=str(row.get("video") or ""),
        question=str(row.get("question") or ""),
        options=options,
        answer=None if answer is None else str(answer),
        error=error,
    )
    if error is None and options and answer is not None and question.expected_letter is None:
        error = f"row {number + 1} of the annotations: the answer {answer!r} is none of its options"
        question = replace(question, error=error)
    return question


def _options(value: Any) -> tuple[str, ...]:
    """Options as a list, or in a CSV as a written list or separated by "|"."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value) if value.startswith("[") else value.split("|")
        except (ValueError, SyntaxError) as error:
            raise ValueError(f"the options {value!r} are no list") from error
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) == 1:
        raise ValueError(f"the options must be a list of two or more, got {value!r}")
    return tuple(map(str, value))


def group_by_video(questions: list[VideoQuestion]) -> list[VideoQuestion]:
    """Bring questions about one video together, videos in the order of their first question."""
    order = {video: i for i, video in enumerate(dict.fromkeys(question.video for question in questions))}
    return sorted(questions, key=lambda question: order[question.video])


def share(questions: list[VideoQuestion], rank: int, world: int) -> list[VideoQuestion]:
    """One process's videos: every `world`-th, so that no video is decoded twice and no question doubled."""
    videos = list(dict.fromkeys(question.video for question in questions))[rank::world]
    mine = set(videos)
    return [question for question in questions if question.video in mine]
