"""What every data module of questions does: grouped by video, decoded ahead, shared out over processes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from datamodules.video import VideoError, read_video
from flexselect.families.base import VideoFamily
from flexselect.questions import QuestionItem, VideoQuestion


class QuestionData(LightningDataModule):
    """Questions for validate and predict.

    Questions about one video come one after another; its frames are decoded once, in a worker, while the video before
    it is being answered.

    Args:
        family: samples and resizes the frames.
        questions: all of them; their videos are relative to `video_root`.
        video_root: a folder.
        num_workers: processes that decode ahead; 0 decodes in the main process.
    """

    macro: str | None = None  # the group whose shares are averaged into the accuracy; None: all questions count alike

    def __init__(self, family: VideoFamily, questions: list[VideoQuestion], video_root: str, num_workers: int) -> None:
        super().__init__()
        self.family, self.video_root, self.num_workers = family, video_root, num_workers
        self.questions = group_by_video(questions)
        self.answered: set[tuple[str, str, str]] = set()

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

    def predict_dataloader(self) -> DataLoader:
        """One `QuestionItem` a step, in the order of the videos."""
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        mine = share(self.questions, rank, world)
        items = _Items(self.family, mine, self.answered, Path(self.video_root))
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


def group_by_video(questions: list[VideoQuestion]) -> list[VideoQuestion]:
    """Bring questions about one video together, videos in the order of their first question."""
    order = {video: i for i, video in enumerate(dict.fromkeys(question.video for question in questions))}
    return sorted(questions, key=lambda question: order[question.video])


def share(questions: list[VideoQuestion], rank: int, world: int) -> list[VideoQuestion]:
    """One process's videos: every `world`-th, so that no video is decoded twice and no question doubled."""
    videos = list(dict.fromkeys(question.video for question in questions))[rank::world]
    mine = set(videos)
    return [question for question in questions if question.video in mine]
