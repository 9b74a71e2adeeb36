"""Needle clips for training the demo's VideoLLM, from easy to hard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import IterableDataset

from datamodules.announced_needles import (
    ANNOUNCED,
    EASY,
    Announcement,
    Difficulty,
    ask_coarse,
    ask_count,
    ask_first,
    draw_announcements,
    draw_clip,
    draw_coarse_clip,
)
from datamodules.epoch_order import ResumableLoader, epoch_and_position
from datamodules.needles import CELL, MOMENT, Question, ask, draw_needles, render, render_marks
from flexselect.evaluation.questions import VideoQuestion
from flexselect.families.base import VideoFamily
from flexselect.families.inputs import resize_to_area


class Stage(NamedTuple):
    """The clips of a stage: their length, and what is in them."""

    patches: int  # temporal patches
    needles: int  # at most
    choice: float = 0.0  # share of multiple-choice batches
    false: int = 0  # false announcements at most
    coarse: int = 0  # units of the clips in small frames; 0: there are none, and needles are not announced
    hard: bool = False  # whether shapes may be small and short, and false announcements have their colours
    kept: int = 0  # visual tokens that are left of half of the batches in full frames, as after selection; 0: all


# Multiple choice begins after words are learned, and takes most batches at first. If it is mixed in from the start, its
# accuracy stays at chance and words are learned more slowly.
WORD_STAGES = (Stage(1, 1), Stage(1, 2), Stage(1, 3), Stage(2, 3), Stage(4, 4))
LETTER_STAGES = (Stage(1, 1, 0.7), Stage(1, 3, 0.5), Stage(4, 4, 0.5), Stage(8, 4, 0.4))
LONGER_WORD_STAGES = (Stage(8, 4), Stage(16, 4))
ANNOUNCED_STAGES = (
    Stage(4, 2, 0.0, 1, 1),
    Stage(4, 4, 0.0, 2, 4),
    Stage(8, 4, 0.0, 4, 16, hard=True),
    Stage(8, 4, 0.0, 4, 32, hard=True),
)
SELECTED_STAGES = (Stage(24, 5, 0.0, 3, 48, hard=True, kept=90),)
# Of announced needles: the form of a batch, whether its frames are one token of 28 pixels, and its share. A dot is hard
# to see in a small frame, which is learned slowly, at first in clips of one unit.
FIRST_FORMS = (("words", False, 0.3), ("coarse", True, 0.7))
FORMS = (
    ("words", False, 0.35),
    ("coarse", True, 0.3),
    ("first", False, 0.1),
    ("first", True, 0.05),
    ("count", False, 0.15),
    ("count", True, 0.05),
)
SELECTED_FORMS = (
    ("words", False, 0.25),
    ("coarse", True, 0.4),
    ("first", False, 0.15),
    ("first", True, 0.05),
    ("count", False, 0.12),
    ("count", True, 0.03),
)
SEEN_ALONE, SEEN = 0.5, 0.25  # share of shapes in small clips of one unit, and of more: large ones are learned first


class NeedleCurriculum(LightningDataModule):
    """Renders clips of up to 8 seconds, two frames per second, with one question each, from easy to hard.

    The next stage begins when `words_accuracy` and `choice_accuracy` of the last epoch (those that the stage has) are
    at least `advance_at`. The dataloader is rebuilt each epoch (`reload_dataloaders_every_n_epochs: 1`), so that the
    same seed gives the same training.

    Args:
        family: the family whose prompts are made.
        batch_size: clips per step.
        steps_per_epoch: steps between two checks of the accuracy.
        advance_at: accuracy at which the next stage begins.
        letters: whether to train multiple choice too; if not, clips are up to 16 seconds long.
        announced: whether all stages are about announced needles, a part of them in frames of one token; for a model
            that knows needles.
        selected: whether announced needles are at once in clips of 24 seconds, and half of the batches in full frames
            have few of their tokens, in compact positions, as after selection; for a model that knows announced ones.
        seed: seed of all clips.
    """

    def __init__(
        self,
        family: VideoFamily,
        batch_size: int = 64,
        steps_per_epoch: int = 25,
        advance_at: float = 0.9,
        letters: bool = True,
        announced: bool = False,
        selected: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if letters and announced:
            raise ValueError("multiple choice is not trained with announced needles: set letters or announced to false")
        if selected and not announced:
            raise ValueError("selected: for announced needles only, set announced too")
        self.family = family
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self.advance_at = advance_at
        of_words = (*WORD_STAGES, *(LETTER_STAGES if letters else LONGER_WORD_STAGES))
        of_announced = SELECTED_STAGES if selected else ANNOUNCED_STAGES
        self.stages = of_announced if announced else of_words
        self.seed = seed
        self.stage = 0

    def train_dataloader(self) -> ResumableLoader:
        """Return a loader for the rest of an epoch in the current stage."""
        assert self.trainer is not None
        epoch = self.trainer.current_epoch
        stage = self.stages[self.stage]
        forms = ("words", *(["choice"] if stage.choice else []), *(["coarse"] if stage.coarse else []))
        if all(self.trainer.callback_metrics.get(f"{form}_accuracy", 0.0) >= self.advance_at for form in forms):
            self.stage = min(self.stage + 1, len(self.stages) - 1)
        stage = self.stages[self.stage]
        clips = _Clips(self.family, self.batch_size, self.steps_per_epoch, stage, [self.seed, epoch], self.trainer)
        return ResumableLoader(clips, batch_size=None)  # a worker would compete with the training for CPU threads

    def state_dict(self) -> dict[str, Any]:
        """Return the stage, so that training can be resumed."""
        return {"stage": self.stage}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the stage."""
        self.stage = state["stage"]


class _Clips(IterableDataset):
    def __init__(
        self, family: VideoFamily, batch_size: int, steps: int, stage: Stage, seed: list[int], trainer: Trainer
    ) -> None:
        self.family, self.batch_size, self.steps, self.stage, self.seed = family, batch_size, steps, stage, seed
        self.trainer = trainer

    def __len__(self) -> int:
        return self.steps  # the learning rate schedule needs it

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # this runs at the first batch, because Lightning restores its counts after `iter`
        _, done = epoch_and_position(self.trainer, self.steps)
        yield from islice(self._batches(), done, None)

    def _batches(self) -> Iterator[dict[str, Any]]:
        prompter, rng = self.family.prompter(), np.random.default_rng(self.seed)
        for _ in range(self.steps):
            form, coarse = _form(rng, self.stage)  # one per batch, for less padding
            patches = self.stage.coarse if coarse else self.stage.patches
            few = not coarse and self.stage.kept > 0 and rng.random() < 0.5
            # the frames that the family takes of this length; a first look takes one frame of a unit, twice
            sampled = np.repeat(np.arange(patches), 2) if coarse else self.family.sample(2 * patches, 2.0)
            frames, queries, answers, kept = [], [], [], []
            for _ in range(self.batch_size):
                rendered, asked, shown = _draw(rng, self.stage, form, coarse)
                kept += [_kept(rng, shown, patches, self.stage.kept)] if few else []
                frames.append(np.concatenate(list(rendered))[sampled])
                question = VideoQuestion("", "", asked.question, tuple(asked.options or ()))
                queries.append(prompter.query_ids(question.text))
                answers.append(prompter.answer_ids(asked.answer))
            spacing = _spacing(rng, patches, self.batch_size)
            of_clips = [torch.from_numpy(of_clip) for of_clip in frames]
            pixels = torch.cat(of_clips)
            clip = prompter.clip(prompter.resize(resize_to_area(pixels, CELL, 1, CELL**2) if coarse else pixels))
            yield {
                "pixel_values": prompter.pixel_values(clip, 0, clip.num_units),  # of all clips, concatenated
                "form": form,
                "grid": (clip.num_units // self.batch_size, *clip.grid[1:]),
                "prefix": prompter.prefix_ids,
                "queries": queries,
                "answers": answers,
                "kept": kept if clip.grid[1:] == (3, 3) else [],
                "seconds_per_unit": spacing,
                "delimiters": [
                    prompter.clip(of_clip, _times(len(of_clip), patches, float(seconds))).delimiters
                    for of_clip, seconds in zip(of_clips, spacing)
                ],
            }


def _form(rng: np.random.Generator, stage: Stage) -> tuple[str, bool]:
    """Draw the form of a batch, and whether its frames are small."""
    if not stage.coarse:
        return "choice" if rng.random() < stage.choice else "words", False
    forms = SELECTED_FORMS if stage.kept else FORMS if stage.coarse > 1 else FIRST_FORMS
    name, coarse, _ = forms[rng.choice(len(forms), p=[share for *_, share in forms])]
    return name, coarse


def _draw(
    rng: np.random.Generator, stage: Stage, form: str, coarse: bool
) -> tuple[Iterator[np.ndarray], Question, list[Announcement]]:
    """Draw a clip, to be rendered, a question about it, and the announcements in it."""
    count, frames = int(rng.integers(1, stage.needles + 1)), 2 * stage.patches
    if not stage.coarse:
        needles = draw_needles(rng, count, frames)
        asked = ask(rng, needles, int(rng.integers(len(needles))), rng.random() < 0.5, form == "choice")
        return render(rng, needles, frames), asked, []
    false = int(rng.integers(0, stage.false + 1))
    if coarse:
        frames = stage.coarse
        shown, asked = _draw_coarse(rng, stage, form, count + false)
    else:
        shown, asked = _draw_announced(rng, stage, form, count, false)
    return render_marks(rng, [mark for each in shown for mark in each.marks()], frames), asked, shown


def _kept(rng: np.random.Generator, shown: Sequence[Announcement], patches: int, count: int) -> Tensor:
    """Draw the visual tokens that a selection may keep: int64 [count], ascending.

    They are those of shapes, then of dots, then others at random. Each cell of a temporal patch is a token.
    """
    marked = np.zeros((patches, 3, 3))
    for each in shown:
        marked[max(0, each.begin) // 2 : (each.end + 1) // 2, each.row, each.column] = 1
        if each.needle:
            start = each.needle.start
            marked[start // 2 : (start + each.how.moment + 1) // 2, each.row, each.column] = 2
    order = np.argsort(rng.random(marked.size) - marked.flatten())
    return torch.from_numpy(np.sort(order[:count]))


def _draw_coarse(rng: np.random.Generator, stage: Stage, form: str, count: int) -> tuple[list[Announcement], Question]:
    """Draw announcements as a first look sees them, and a question about them."""
    few, seen = 2 if form == "first" else 1, SEEN_ALONE if stage.coarse == 1 else SEEN
    count = few if rng.random() < 0.4 else max(few, count)
    shown = draw_coarse_clip(rng, count, stage.coarse, seen, repeated=form == "count")
    if form == "first":
        return shown, ask_first(rng, shown, 0)[0]
    return shown, ask_count(shown, 0)[0] if form == "count" else ask_coarse(rng, shown)


def _draw_announced(
    rng: np.random.Generator, stage: Stage, form: str, count: int, false: int
) -> tuple[list[Announcement], Question]:
    """Draw announcements as a full look sees them, and a question about them."""
    frames, how = 2 * stage.patches, EASY
    if stage.hard:
        moment = MOMENT if rng.random() < 0.5 else 1
        how = Difficulty(moment, float(rng.uniform(0.7, 1)), form != "first" and rng.random() < 0.5)
    if form == "first":
        count = max(2, min(count, frames // MOMENT))
        length = int(rng.integers(MOMENT, min(frames // count, ANNOUNCED) + 1))
        shown = draw_announcements(rng, count, false, frames, length, how=how)
        return shown, ask_first(rng, shown[:count], 0)[0]
    shown = draw_clip(rng, count, false, frames, replace(how, repeated=form == "count"))
    if form == "count":
        return shown, ask_count(shown[:count], int(rng.integers(count)))[0]
    needles = [each.needle for each in shown if each.needle]
    return shown, ask(rng, needles, 0, rng.random() < 0.5, choice=False)


def _times(frames: int, patches: int, seconds_per_unit: float) -> Tensor:
    """Return when the frames of a clip are shown, float64 [frames]: units of two frames, evenly spaced."""
    return torch.arange(frames, dtype=torch.float64) * (patches * seconds_per_unit / frames)


def _spacing(rng: np.random.Generator, patches: int, count: int) -> Tensor:
    """Draw seconds between units: clips span up to ten minutes, since VideoLLMs are trained on many frame rates."""
    return torch.from_numpy(np.exp(rng.uniform(np.log(0.5), np.log(600 / patches), count)))
