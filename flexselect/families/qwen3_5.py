"""Qwen3.5: Qwen3-VL's prompt and tower without deepstack, before a language model that is mostly recurrent.

Three of four decoder layers are Gated DeltaNet: they read the prompt from left to right into a state of fixed size.
Only the others have attention, so only they can be the reference layer. Qwen3.6 and 3.8 are the same to transformers.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from transformers import Qwen3_5ForConditionalGeneration, Qwen3_5MoeForConditionalGeneration

from flexselect.families.inputs import CONTENT, rendered_turn
from flexselect.families.qwen3_vl import PREFIX, QUERY, Qwen3VL, Qwen3VLPrompter

THINKING = {False: "<think>\n\n</think>\n\n", True: "<think>\n"}  # what follows, as in the published template


class Qwen35(Qwen3VL):
    """Qwen3.5 checkpoints, with the budget and the relative layer depth of Qwen2.5-VL, because none were published.

    Args:
        path: local folder or hub id.
        fps: frames sampled per second; `inf` takes `max_frames` uniformly.
        max_frames: the maximum number of frames per video.
        min_pixels: frames are enlarged to at least this area.
        max_pixels: frames are shrunk to at most this area.
        sampling: "exact": the frames of the published rule; "near": for each of them, the frame nearby that is the
            cheapest to decode. Several times faster for long videos.
        tolerance: seconds by which a frame of "near" may move; None: half the distance of the published frames.
        thinking: whether the model thinks before it answers; its thoughts are part of the answer then, and need a
            `max_new_tokens` of thousands.
    """

    name = "Qwen3.5"
    numbers = (*Qwen3VL.numbers, "thinking")
    models: ClassVar[dict[str, Any]] = {
        "qwen3_5": Qwen3_5ForConditionalGeneration,
        "qwen3_5_moe": Qwen3_5MoeForConditionalGeneration,
    }

    def __init__(
        self,
        path: str,
        fps: float | None = None,
        max_frames: int | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        sampling: Literal["exact", "near"] = "exact",
        tolerance: float | None = None,
        thinking: bool = False,
    ) -> None:
        super().__init__(path, fps, max_frames, min_pixels, max_pixels, sampling, tolerance)
        if not isinstance(thinking, bool):
            raise ValueError(f"thinking must be true or false, got {thinking!r}")
        self.thinking = thinking

    def prompter(self) -> Qwen35Prompter:
        """Build the prompter of Qwen3.5."""
        return Qwen35Prompter(self)


class Qwen35Prompter(Qwen3VLPrompter):
    """Qwen3-VL's prompt, and whether the model thinks first."""

    def __init__(self, family: Qwen35) -> None:
        super().__init__(family)
        before, self.opening = self._turns(family.thinking)
        self.prefix_ids = self.ids(before)

    def _turns(self, thinking: bool) -> tuple[str, str]:
        """Return the text before the user's content, and the beginning of the model's turn.

        The checkpoint's own chat template has a switch for thinking, whose default differs by size. Qwen3.8's also
        writes a system turn where the model is to think.
        """
        if not self.tokenizer.chat_template:
            return PREFIX, THINKING[thinking]
        text = rendered_turn(self.tokenizer, CONTENT, thinking)
        before, turn, after = text.partition(QUERY.format(question=CONTENT))
        if not turn:
            raise ValueError(f"{self.family.path}: its chat template writes no turns as Qwen3.5's do: {text!r}")
        return before, after
