"""Clips with a needle: one unit shows something else, and the question is about it (section 3.1)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from lightning import LightningDataModule
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.needles import CELL, COLOURS, SHAPES, paint, render
from datamodules.processes import keep_frames_on_cpu, rank_and_world_size
from datamodules.rows import read_rows
from datamodules.video import VideoError, read_video
from flexselect.analysis.needle_recall import NeedleClip
from flexselect.contracts import Recorded
from flexselect.families.base import VideoFamily
from flexselect.families.inputs import at_least
from flexselect.storage.video_paths import is_folder, list_videos
from flexselect.structures.prompt import VideoPrompt

log = logging.getLogger(__name__)


class NeedleClips(LightningDataModule):
    """Makes needle clips from a seed: rendered, or from your pictures and videos.

    A rendered needle is a frame filled by one coloured shape ("What colour is the ring?"). A rendered haystack is a
    dull moving scene.

    Args:
        family: the family whose prompts are made.
        clips: number of clips.
        units: units per clip.
        distractors: number of rendered needles that the question does not ask for.
        needles: JSON, JSONL, CSV or Parquet with `image` (relative to the file) and `question`; None: rendered needles.
        haystacks: a folder of videos; `units` are taken from each, evenly spread; None: rendered haystacks.
        cells: side of a rendered frame, in shapes of 28 pixels.
        seed: seed of all clips.
    """

    def __init__(
        self,
        family: VideoFamily,
        clips: int = 64,
        units: int = 32,
        distractors: int = 0,
        needles: str | None = None,
        haystacks: str | None = None,
        cells: int = 3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (("clips", clips, 1), ("units", units, 2), ("cells", cells, 1)):
            at_least(name, least, value, None)
        if not 0 <= distractors < min(units, len(SHAPES)):
            raise ValueError(f"distractors must be from 0 to {min(units, len(SHAPES)) - 1}, got {distractors}")
        self.family, self.clips, self.units, self.cells, self.seed = family, clips, units, cells, seed
        self.distractors = distractors if needles is None else 0
        self.needles = None if needles is None else read_pictures(Path(needles))
        self.settings = {"clips": clips, "units": units, "distractors": self.distractors, "needles": needles}
        self.settings |= {"haystacks": haystacks, "cells": cells, "seed": seed}
        self.haystacks = None if haystacks is None else list_haystacks(haystacks)

    def predict_dataloader(self) -> DataLoader:
        """Return a loader that yields one `NeedleClip` per step; clips are divided among processes."""
        rank, world = rank_and_world_size(self.trainer)
        if self.clips < world:
            raise ValueError(f"{world} processes cannot share {self.clips} clips: give --data.clips {world} or more")
        return DataLoader(_Clips(self, range(self.clips)[rank::world]), batch_size=None)

    transfer_batch_to_device = keep_frames_on_cpu


class _Clips(Dataset):
    def __init__(self, data: NeedleClips, numbers: range) -> None:
        self.data, self.numbers = data, numbers
        self.prompter = data.family.prompter()

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> NeedleClip:
        data, rng = self.data, np.random.default_rng([self.data.seed, self.numbers[index]])
        frames = self.prompter.resize(self._haystack(rng))
        margin = min(5, (data.units - 1) // 4)
        units = rng.permutation(np.arange(margin, data.units - margin))[: data.distractors + 1]
        question, answer = "", ""
        for unit, (picture, asked, word) in zip(units, self._needles(rng, len(units))):
            size = (frames.shape[2], frames.shape[1])
            image = torch.from_numpy(np.asarray(picture.resize(size, Image.Resampling.BICUBIC)).copy())
            first = int(unit) * data.family.frames_per_unit
            frames[first : first + data.family.frames_per_unit] = image
            if not question:  # the question is about the first needle
                question, answer = asked, word
        prompt = VideoPrompt(self.prompter.clip(frames), self.prompter.prefix_ids, self.prompter.query_ids(question))
        return NeedleClip(prompt, int(units[0]), question, answer, len(units) - 1)

    def _haystack(self, rng: np.random.Generator) -> Tensor:
        count = self.data.units * self.data.family.frames_per_unit
        if self.data.haystacks is None:
            return torch.from_numpy(np.concatenate(list(render(rng, [], count, self.data.cells))))
        sample = lambda n, fps: np.linspace(0, n - 1, count).round().astype(int).tolist()  # noqa: E731
        for number in rng.permutation(len(self.data.haystacks)):
            try:
                return read_video(self.data.haystacks[number], sample, self.prompter.resize)[0]
            except VideoError as error:
                log.warning("a haystack cannot be read, and another one is used: %s", error)
        raise ValueError("none of the haystacks can be read; the reasons are above")

    def _needles(self, rng: np.random.Generator, count: int) -> Iterator[tuple[Image.Image, str, str]]:
        if self.data.needles is not None:
            path, question = self.data.needles[int(rng.integers(len(self.data.needles)))]
            yield Image.open(path).convert("RGB"), question, ""
            return
        shapes, colours = rng.permutation(SHAPES)[:count], rng.permutation(list(COLOURS))[:count]
        for shape, colour in zip(shapes, colours):
            background = next(iter(render(rng, [], 1, self.data.cells)))[0]
            for place in range(self.data.cells**2):
                y, x = divmod(place, self.data.cells)
                paint(background[y * CELL :, x * CELL :][:CELL, :CELL], str(shape), str(colour), rng)
            by_shape = rng.random() < 0.5
            question = f"What colour is the {shape}?" if by_shape else f"Which shape is {colour}?"
            yield Image.fromarray(background), question, str(colour if by_shape else shape)


def read_pictures(table: Path) -> list[tuple[Path, str]]:
    """Read images with their questions; all images are opened before a model is loaded.

    Raises:
        ValueError: naming a row that is incomplete, or whose image cannot be read.
    """
    if table.is_dir():
        raise ValueError(f"{table} is a folder; --data.needles takes a table with `image` and `question`")
    needles = []
    for number, row in enumerate(read_rows(str(table)), 1):
        path = table.parent / str(row.get("image") or "")
        if not row.get("image") or not str(row.get("question") or "").strip():
            raise ValueError(f"{table}: row {number} has no `image` or no `question`")
        try:
            with Image.open(path) as image:
                image.load()
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{table}: the image of row {number} cannot be read: {path} ({error})") from error
        needles.append((path, str(row["question"])))
    if not needles:
        raise ValueError(f"{table}: holds no rows")
    return needles


def list_haystacks(folder: str) -> list[Path]:
    """List the videos of a folder.

    Raises:
        ValueError: if there are none.
    """
    if not is_folder(Path(folder)):
        raise ValueError(f"{folder} is no folder; --data.haystacks takes one with videos")
    return [Path(file) for file in list_videos(folder)]


_: type[Recorded] = NeedleClips  # mypy holds it to its contract
