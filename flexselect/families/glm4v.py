"""GLM-4.1V to GLM-4.6V: a timestamp after each unit; the prompt is taken from the checkpoint's own chat template."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    Glm4vForConditionalGeneration,
    Glm4vMoeForConditionalGeneration,
    Glm46VForConditionalGeneration,
    Glm46VVideoProcessor,
    PreTrainedModel,
)

from flexselect.families.inputs import prompt_of_template
from flexselect.families.timestamped import MERGE, TimestampedFamily, TimestampedLM, TimestampedPrompter, texts_around
from flexselect.loading.tokenizer_files import checked_tokenizer
from flexselect.running.vision_tower import replace_module
from flexselect.structures.layout import Delimiters
from flexselect.structures.prompt import VideoClip, VideoPrompt

BEGIN, END = "<|begin_of_video|>", "<|end_of_video|>"
BEFORE, AFTER = "<|begin_of_image|>", "<|end_of_image|>{seconds:.1f} seconds"


class Glm4v(TimestampedFamily):
    """GLM-4.1V, 4.5V and 4.6V checkpoints, with the budget and the relative layer depth of Qwen2.5-VL.

    Thinking is switched off, by the chat template's own switch.

    Args:
        path: local folder or hub id.
        fps: frames sampled per second; `inf` takes `max_frames` uniformly.
        max_frames: the maximum number of frames per video.
        min_pixels: frames are enlarged to at least this area.
        max_pixels: frames are shrunk to at most this area.
        sampling: "exact": the frames of the published rule; "near": for each of them, the frame nearby that is the
            cheapest to decode. Several times faster for long videos.
        tolerance: seconds by which a frame of "near" may move; None: half the distance of the published frames.
    """

    name = "GLM-4.6V"
    factor = 14 * MERGE
    models: ClassVar[dict[str, Any]] = {
        "glm4v": Glm4vForConditionalGeneration,
        "glm46v": Glm46VForConditionalGeneration,
        "glm4v_moe": Glm4vMoeForConditionalGeneration,
    }
    selector_inputs = None

    def prompter(self) -> Glm4vPrompter:
        """Build the prompter of GLM-4V."""
        return Glm4vPrompter(self)

    def device_half(self, model: PreTrainedModel) -> Glm4vLM:
        """Build the device half from a model whose tower is prepared."""
        return Glm4vLM(model, self)


class Glm4vPrompter(TimestampedPrompter):
    """Tokenizer and prompt of GLM-4V. A turn of the model ends where the user's next one begins."""

    turn_end = ""
    next_turn = "<|user|>\n{text}"

    def __init__(self, family: Glm4v) -> None:
        super().__init__(family)
        config = family.model_config
        special = {"<|user|>": None, BEFORE: config.image_start_token_id, BEGIN: None}
        load = AutoTokenizer.from_pretrained
        self.tokenizer = checked_tokenizer(family.path, load, special, config.get_text_config())
        before, after = prompt_of_template(self.tokenizer, family.path, f"{BEGIN}<|video|>{END}")
        self.prefix_ids, self.query = self.ids(before + BEGIN), END + after

    @property
    def end_of_turn(self) -> int:
        """The id that ends an answer: the beginning of the user's next turn."""
        return int(self.ids("<|user|>")[0])

    def delimiters(self, times: Tensor) -> tuple[Delimiters, ...]:
        """Make the text around each unit: after it the time of its first frame."""
        before = self.ids(BEFORE)
        return tuple((before, self.ids(AFTER.format(seconds=time))) for time in times[:, 0].tolist())

    @cached_property
    def processor(self) -> Glm46VVideoProcessor:
        """The video processor of transformers, which normalises pixels and cuts patches."""
        return Glm46VVideoProcessor(do_resize=False, do_sample_frames=False)


class Glm4vLM(TimestampedLM):
    """A loaded GLM-4V."""

    @property
    def visual_id(self) -> int:
        """The placeholder id of a visual token: that of an image's."""
        return self.model.config.image_token_id

    def vision(self, pixel_values: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Run the vision tower without its last layers, which do not mix tokens: [4V, 1176] to [V, D]."""
        patches = torch.tensor([[grid[0], grid[1] * MERGE, grid[2] * MERGE]], device=self.device)
        with replace_module(self.model.model.visual, "merger", nn.Identity()):
            out = self.model.get_video_features(pixel_values.to(self.device), patches, return_dict=True)
        return out.pooler_output[0]

    def project(self, vision: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Run the merger: [V, D] to [V, D]."""
        return self.model.model.visual.merger(vision).to(self.device)

    def projector_weights(self) -> dict[str, Tensor]:
        """Return nothing: there is no selector of this family."""
        return {}

    def prompt_from_tensors(self, **tensors: Tensor) -> VideoPrompt:
        """Split a prompt at its runs of placeholders, one run per unit.

        Args:
            tensors: `input_ids` int64 [1, N] or [N]; `pixel_values_videos` float [4V, 1176]; `video_grid_thw` int64
                [1, 3], in patches.
        """
        units, height, width = tensors["video_grid_thw"].flatten().tolist()
        grid = (units, height // MERGE, width // MERGE)
        first, *texts = texts_around(tensors["input_ids"].flatten(), self.visual_id, grid)
        end = int((texts[-1] == self.model.config.video_end_token_id).nonzero()[0])
        afters = [*(text[:-1] for text in texts[:-1]), texts[-1][:end]]
        clip = VideoClip(
            tensors["pixel_values_videos"], grid, delimiters=tuple((first[-1:], after) for after in afters)
        )
        return VideoPrompt(clip, first[:-1], texts[-1][end:])
