"""Qwen2.5-VL: units are temporal patches of two frames; positions are M-RoPE's time, row and column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from flexselect.attention.windows import batch_windows
from flexselect.families.base import VideoFamily, VideoLM
from flexselect.families.inputs import at_least, even_frames, pad_to_even, resize_to_area
from flexselect.families.prompter import Prompter
from flexselect.loading.tokenizer_files import checked_tokenizer
from flexselect.loading.weights import LoadOptions, load_weights
from flexselect.running.greedy import qwen_logits
from flexselect.running.vision_tower import SideBySide, replace_module
from flexselect.structures.layout import Layout
from flexselect.structures.prompt import VideoClip, VideoPrompt

PREFIX = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
QUERY = "<|vision_end|>{question}<|im_end|>\n<|im_start|>assistant\n"

PATCH = 14  # pixels
MERGE = 2  # patches merged into one token, in each direction
UNIT_FRAMES = 2  # frames in a temporal patch
FACTOR = PATCH * MERGE  # pixels per token, in each direction

REFERENCE_LAYERS = {28: 20, 80: 60}  # published: 7B and 72B


class Qwen25VL(VideoFamily):
    """Qwen2.5-VL checkpoints in Hugging Face layout.

    Args:
        path: local folder or hub id.
        fps: frames sampled per second; `inf` takes `max_frames` uniformly.
        max_frames: the maximum number of frames per video.
        min_pixels: frames are enlarged to at least this area.
        max_pixels: frames are shrunk to at most this area; 308 * 560 gives up to 220 tokens per unit.
        time_step: time between units for M-RoPE. "released": always 1.0 s, as in the released evaluation; "true": the
            real time, as in the model's training; of unevenly spaced frames the mean, since the model takes one number.
        sampling: "exact": the frames of the published rule; "near": for each of them, the frame nearby that is the
            cheapest to decode. Several times faster for long videos.
        tolerance: seconds by which a frame of "near" may move; None: half the distance of the published frames.
    """

    name = "Qwen2.5-VL"
    frames_per_unit = UNIT_FRAMES
    numbers = ("fps", "max_frames", "min_pixels", "max_pixels", "time_step", "sampling", "tolerance")
    published_layers = REFERENCE_LAYERS
    default_positions = "original"
    released_budget_in_units = True
    published_budget = 7040

    def __init__(
        self,
        path: str,
        fps: float | None = None,
        max_frames: int | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        time_step: Literal["released", "true"] = "released",
        sampling: Literal["exact", "near"] = "exact",
        tolerance: float | None = None,
    ) -> None:
        defaults = self.open(path, sampling, tolerance)
        self.fps = at_least("fps", 1e-9, fps, defaults.get("fps", 2.0))
        self.max_frames = at_least("max_frames", 2, max_frames, defaults.get("max_frames", 1024))
        self.min_pixels = at_least("min_pixels", 1, min_pixels, defaults.get("min_pixels", 128 * FACTOR**2))
        self.max_pixels = at_least("max_pixels", self.min_pixels, max_pixels, defaults.get("max_pixels", 308 * 560))
        self.time_step = time_step
        if time_step not in ("released", "true"):
            raise ValueError(f"time_step must be released or true, got {time_step!r}")

    @staticmethod
    def claims(config: dict[str, Any]) -> bool:
        """Return whether `model_type` in a config.json is Qwen2.5-VL's."""
        return config.get("model_type") == "qwen2_5_vl"

    def read_model_config(self) -> PreTrainedConfig:
        """Read the configuration; older files have the LLM's sizes at the top level, newer ones under text_config."""
        return AutoConfig.from_pretrained(self.path)

    @property
    def selector_inputs(self) -> dict[str, Any]:
        """Fields of `LiteSelectorConfig`: four patches of the tower per token."""
        return {"projector": "qwen2_5_vl", "vision_size": self.model_config.vision_config.hidden_size}

    def sample(self, num_frames: int, fps: float) -> list[int]:
        """Choose about `fps` frames per second, an even number from 4 to `max_frames`; all frames of a shorter clip."""
        return even_frames(num_frames, fps, self.fps, self.max_frames)

    def on_picture(self, tokens: Tensor, grid: Sequence[int]) -> Tensor:
        """Arrange one value per token on the frames; every token lies on a frame."""
        return tokens.reshape(*grid)

    def prompter(self) -> Qwen25VLPrompter:
        """Build the prompter of Qwen2.5-VL."""
        return Qwen25VLPrompter(self)

    def load(self, options: LoadOptions) -> Qwen25VLM:
        """Load the weights and build the device half."""
        return self.wrap(load_weights(Qwen2_5_VLForConditionalGeneration, self.path, self.model_config, options))

    def wrap(self, model: PreTrainedModel) -> Qwen25VLM:
        """Build the device half from a loaded model."""
        batch_windows(model.model.visual)
        return Qwen25VLM(model, self)


class Qwen25VLPrompter(Prompter):
    """Tokenizer, resize rule and prompt of Qwen2.5-VL."""

    query = QUERY
    token_side = FACTOR

    def __init__(self, family: Qwen25VL) -> None:
        self.family = family
        special = {"<|im_end|>": None, "<|vision_end|>": family.config.get("vision_end_token_id")}
        self.tokenizer = checked_tokenizer(
            family.path, AutoTokenizer.from_pretrained, special, family.model_config.get_text_config()
        )
        self.prefix_ids = self.ids(PREFIX)

    def resize(self, frames: Tensor) -> Tensor:
        """Resize sides to multiples of 28, with the area between the family's bounds; bicubic, antialiased, uint8."""
        return resize_to_area(frames, FACTOR, self.family.min_pixels, self.family.max_pixels)

    def clip(self, frames: Tensor, seconds: Tensor | None = None) -> VideoClip:
        """Pair frames into units; an odd last frame is repeated."""
        frames = pad_to_even(frames)
        height, width = frames.shape[1:3]
        grid = (len(frames) // UNIT_FRAMES, height // FACTOR, width // FACTOR)
        step = 1.0
        if self.family.time_step == "true" and seconds is not None and len(seconds) > 1:
            step = UNIT_FRAMES * float(seconds[-1] - seconds[0]) / (len(seconds) - 1)
        return VideoClip(frames, grid, step, seconds)

    @cached_property
    def _processor(self) -> Qwen2VLVideoProcessor:
        return Qwen2VLVideoProcessor(do_resize=False, patch_size=PATCH, merge_size=MERGE, cap_pixels_per_frame=False)

    def pixel_values(self, clip: VideoClip, first: int, last: int) -> Tensor:
        """Make normalised patches of units [first, last): float32 [(last - first) * 4hw, 1176]."""
        frames = clip.pixels[first * UNIT_FRAMES : last * UNIT_FRAMES].permute(0, 3, 1, 2)  # [t, 3, h, w]
        return self._processor(videos=[frames], return_tensors="pt")["pixel_values_videos"]


class Qwen25VLM(VideoLM):
    """A loaded Qwen2.5-VL."""

    units_per_step = 32

    @property
    def visual_id(self) -> int:
        """The placeholder id of a visual token."""
        return self.model.config.video_token_id

    @property
    def decoder(self) -> Any:
        """The text model."""
        return self.model.model.language_model

    def vision(self, pixel_values: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Run the vision tower; the four patches of a token are concatenated: [4V, 1176] to [V, 5120]."""
        patches = torch.tensor([[grid[0], grid[1] * MERGE, grid[2] * MERGE]], device=self.device)
        pixel_values = pixel_values.to(self.device, self.model.dtype)
        with replace_module(self.model.model.visual, "merger", SideBySide(MERGE**2)):
            return self.model.get_video_features(pixel_values, patches, return_dict=True).pooler_output[0]

    def project(self, vision: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Run the merger: [V, 5120] to [V, D]."""
        return self.model.model.visual.merger(vision.unflatten(1, (MERGE**2, -1)).flatten(0, 1)).to(self.device)

    def projector_weights(self) -> dict[str, Tensor]:
        """Return the weights of the merger."""
        return {f"merger.{name}": weight for name, weight in self.model.model.visual.merger.state_dict().items()}

    def position_ids(self, layout: Layout, grid: Sequence[int], seconds_per_unit: float) -> Tensor:
        """Compute M-RoPE positions as in Qwen2.5-VL's training: int64 [3, N].

        Text continues at the maximum over time, row and column, plus one. (transformers 5.3 and later continue at the
        maximum over rows and columns only, which puts the question into the middle of a long video.)
        """
        (units, rows, columns), prefix = grid, layout.span.start
        step = torch.arange(units) * seconds_per_unit * self.model.config.vision_config.tokens_per_second
        time, row, column = torch.meshgrid(step.long(), torch.arange(rows), torch.arange(columns), indexing="ij")
        video = torch.stack([time.flatten(), row.flatten(), column.flatten()]) + prefix
        start = int(video.max()) + 1
        before, after = torch.arange(prefix), torch.arange(start, start + layout.query_rows)
        return torch.cat([before.expand(3, -1), video, after.expand(3, -1)], dim=1)

    def prompt_from_tensors(self, **tensors: Tensor) -> VideoPrompt:
        """Split a prompt at its run of video placeholders.

        Args:
            tensors: `input_ids` int64 [1, N] or [N]; `pixel_values_videos` float [4V, 1176]; `video_grid_thw` int64
                [1, 3], in patches; `second_per_grid_ts`, seconds between units, one number or [1], 1.0 if missing.
        """
        ids = tensors["input_ids"].flatten()
        units, height, width = tensors["video_grid_thw"].flatten().tolist()
        grid = (units, height // MERGE, width // MERGE)
        visual = (ids == self.visual_id).nonzero().flatten()
        if len(visual) != math.prod(grid) or int(visual[-1] - visual[0]) + 1 != len(visual):
            raise ValueError(
                f"the prompt has {len(visual)} video placeholders (id {self.visual_id}) "
                f"but the grid {grid} needs one run of {math.prod(grid)}"
            )
        step = float(torch.as_tensor(tensors.get("second_per_grid_ts", 1.0)).flatten()[0])
        clip = VideoClip(tensors["pixel_values_videos"], grid, step)
        return VideoPrompt(clip, ids[: visual[0]], ids[visual[-1] + 1 :])

    def logits_from_pixels(self, prompt: VideoPrompt) -> Tensor:
        """Run transformers' whole model, see `qwen_logits`."""
        return qwen_logits(self, prompt, MERGE)
