"""Needle clips for training the demo's VideoLLM, from easy to hard."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import IterableDataset

from datamodules.epoch_order import ResumableLoader, epoch_and_position
from datamodules.needles import ask, draw_needles, render
from flexselect.evaluation.questions import VideoQuestion
from flexselect.families.base import VideoFamily

# Stages: temporal patches, maximum number of needles, share of multiple-choice batches. Multiple choice begins after
# words are learned, and takes most batches at first. If it is mixed in from the start, its accuracy stays at chance and
# words are learned more slowly.
WORD_STAGES = ((1, 1, 0.0), (1, 2, 0.0), (1, 3, 0.0), (2, 3, 0.0), (4, 4, 0.0))
LETTER_STAGES = ((1, 1, 0.7), (1, 3, 0.5), (4, 4, 0.5), (8, 4, 0.4))
LONGER_WORD_STAGES = ((8, 4, 0.0), (16, 4, 0.0))


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
        seed: seed of all clips.
    """

    def __init__(
        self,
        family: VideoFamily,
        batch_size: int = 64,
        steps_per_epoch: int = 25,
        advance_at: float = 0.9,
        letters: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.family = family
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self.advance_at = advance_at
        self.stages = (*WORD_STAGES, *(LETTER_STAGES if letters else LONGER_WORD_STAGES))
        self.seed = seed
        self.stage = 0

    def train_dataloader(self) -> ResumableLoader:
        """Return a loader for the rest of an epoch in the current stage."""
        assert self.trainer is not None
        epoch = self.trainer.current_epoch
        forms = ("words", "choice") if self.stages[self.stage][2] else ("words",)
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
        self,
        family: VideoFamily,
        batch_size: int,
        steps: int,
        stage: tuple[int, int, float],
        seed: list[int],
        trainer: Trainer,
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
        patches, count, choice_share = self.stage
        sampled = self.family.sample(2 * patches, 2.0)  # the frames that the family takes from a video of this length
        for _ in range(self.steps):
            frames, queries, answers = [], [], []
            choice = bool(rng.random() < choice_share)  # one form per batch, for less padding
            for _ in range(self.batch_size):
                needles = draw_needles(rng, int(rng.integers(1, count + 1)), 2 * patches)
                asked = ask(rng, needles, int(rng.integers(len(needles))), rng.random() < 0.5, choice)
                frames.append(np.concatenate(list(render(rng, needles, 2 * patches)))[sampled])
                question = VideoQuestion("", "", asked.question, tuple(asked.options or ()))
                queries.append(prompter.query_ids(question.text))
                answers.append(prompter.answer_ids(asked.answer))
            spacing = _spacing(rng, patches, self.batch_size)
            of_clips = [torch.from_numpy(of_clip) for of_clip in frames]
            clip = prompter.clip(prompter.resize(torch.cat(of_clips)))
            yield {
                "pixel_values": prompter.pixel_values(clip, 0, clip.num_units),  # of all clips, concatenated
                "form": "choice" if choice else "words",
                "grid": (clip.num_units // self.batch_size, *clip.grid[1:]),
                "prefix": prompter.prefix_ids,
                "queries": queries,
                "answers": answers,
                "seconds_per_unit": spacing,
                "delimiters": [
                    prompter.clip(of_clip, _times(len(of_clip), patches, float(seconds))).delimiters
                    for of_clip, seconds in zip(of_clips, spacing)
                ],
            }


def _times(frames: int, patches: int, seconds_per_unit: float) -> Tensor:
    """Return when the frames of a clip are shown, float64 [frames]: units of two frames, evenly spaced."""
    return torch.arange(frames, dtype=torch.float64) * (patches * seconds_per_unit / frames)


def _spacing(rng: np.random.Generator, patches: int, count: int) -> Tensor:
    """Draw seconds between units: clips span up to ten minutes, since VideoLLMs are trained on many frame rates."""
    return torch.from_numpy(np.exp(rng.uniform(np.log(0.5), np.log(600 / patches), count)))
