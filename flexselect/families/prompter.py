"""The CPU half of a family: frames to clips, questions to ids. Members are abstract or final."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flexselect.loading.text_ids import filled_ids, template_ids
from flexselect.structures.prompt import VideoClip


class Prompter(ABC):
    """The CPU half of a family: frames to clips, questions to ids. It is cheap to build and can be sent to workers."""

    tokenizer: Any
    prefix_ids: Tensor  # int64 [A], the text before the video
    query: str  # the text between the video and the answer, with {question}
    turn_end = "<|im_end|>"  # ends an answer
    next_turn = "\n<|im_start|>user\n{text}"  # of a conversation, after the end of an answer
    token_side: int | None = None  # pixels that a token is wide; None: the tower takes frames of one size only
    opening = ""  # what a model that can think writes before an answer without thinking; not kept in earlier turns

    @abstractmethod
    def resize(self, frames: Tensor) -> Tensor:
        """Resize uint8 frames [T, h, w, 3] to the tower's input size, uint8."""

    @abstractmethod
    def clip(self, frames: Tensor, seconds: Tensor | None = None) -> VideoClip:
        """Make a clip of resized uint8 frames [T, h, w, 3], T >= 1, shown at `seconds` [T]; None: times are unknown."""

    @abstractmethod
    def pixel_values(self, clip: VideoClip, first: int, last: int) -> Tensor:
        """Make the tower's input for units [first, last) of a clip, float32."""

    # Final from here on.

    def query_ids(self, question: str, history: Sequence[tuple[str, str]] = ()) -> Tensor:
        """Return the text after the video, int64 [Q]: the question, and the end of the user's turn.

        Args:
            question: the question.
            history: earlier questions of the conversation with their answers; they come before the question.
        """
        templates = [self.query.replace("{question}", "{text}")]  # what comes before the first question is said once
        templates += [self.next_turn + templates[0].partition("{text}")[2]] * len(history)
        templates[-1] += self.opening
        questions = [*(earlier for earlier, _ in history), question]
        turns = [_tensor(filled_ids(self.tokenizer, *turn)) for turn in zip(templates, questions)]
        answers = [self.answer_ids(answer) for _, answer in history]
        return torch.cat([turns[0], *(ids for pair in zip(answers, turns[1:]) for ids in pair)])

    def answer_ids(self, answer: str) -> Tensor:
        """Return an answer with its end of turn, as in training: int64 [n]."""
        return _tensor(filled_ids(self.tokenizer, "{text}" + self.turn_end, answer))

    @property
    def end_of_turn(self) -> int:
        """The id that ends an answer. InternVL2.5's configuration names another id, which the model never generates."""
        return int(self.ids(self.turn_end)[0])

    def ids(self, text: str) -> Tensor:
        """Convert a template text to ids, int64 [n]: special tokens are recognised, none are added."""
        return _tensor(template_ids(self.tokenizer, text))

    def decode(self, ids: Tensor) -> str:
        """Convert new tokens [n] to text, without special tokens."""
        return str(self.tokenizer.decode(ids.tolist(), skip_special_tokens=True)).strip()


def _tensor(ids: list[int]) -> Tensor:
    return torch.tensor(ids, dtype=torch.long)
