"""Qwen3-VL: units are temporal patches of two frames, each after a timestamp; deepstack features in several layers.

Dense models and mixtures of experts differ in nothing that is seen here.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeForConditionalGeneration,
    Qwen3VLVideoProcessor,
)

from flexselect.attention.windows import batch_windows
from flexselect.families.base import VideoFamily, VideoLM
from flexselect.families.decoding import qwen_logits
from flexselect.families.inputs import at_least, even_frames, pad_to_even, resize_to_area
from flexselect.families.prompter import Prompter
from flexselect.families.vision_tower import SideBySide, replace_module
from flexselect.loading.tokenizer_files import checked_tokenizer
from flexselect.loading.weights import LoadOptions, load_weights
from flexselect.structures.layout import Delimiters, Layout
from flexselect.structures.prompt import VideoClip, VideoPrompt

PREFIX = "<|im_start|>user\n"
BEFORE = "<{seconds:.1f} seconds><|vision_start|>"
AFTER = "<|vision_end|>"
QUERY = "{question}<|im_end|>\n<|im_start|>assistant\n"

PATCH = 16  # pixels
MERGE = 2  # patches merged into one token, in each direction
UNIT_FRAMES = 2  # frames in a temporal patch
FACTOR = PATCH * MERGE  # pixels per token, in each direction

REFERENCE_LAYERS = {28: 20, 80: 60}  # published for Qwen2.5-VL: 7B and 72B


class Qwen3VL(VideoFamily):
    """Qwen3-VL checkpoints, with the budget and the relative layer depth of Qwen2.5-VL, because none were published.

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

    name = "Qwen3-VL"
    frames_per_unit = UNIT_FRAMES
    numbers: tuple[str, ...] = ("fps", "max_frames", "min_pixels", "max_pixels", "sampling", "tolerance")
    published_layers = REFERENCE_LAYERS
    default_positions = "original"
    released_budget_in_units = True
    published_budget = 7040
    models: ClassVar[dict[str, Any]] = {  # transformers' class by `model_type`
        "qwen3_vl": Qwen3VLForConditionalGeneration,
        "qwen3_vl_moe": Qwen3VLMoeForConditionalGeneration,
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
    ) -> None:
        defaults = self.open(path, sampling, tolerance)
        self.fps = at_least("fps", 1e-9, fps, defaults.get("fps", 2.0))
        self.max_frames = at_least("max_frames", 2, max_frames, defaults.get("max_frames", 1024))
        self.min_pixels = at_least("min_pixels", 1, min_pixels, defaults.get("min_pixels", 128 * FACTOR**2))
        self.max_pixels = at_least(
            "max_pixels", self.min_pixels, max_pixels, defaults.get("max_pixels", 220 * FACTOR**2)
        )

    @staticmethod
    def claims(config: dict[str, Any]) -> bool:
        """Return whether `model_type` in a config.json is Qwen3-VL's."""
        return config.get("model_type") in Qwen3VL.models

    def read_model_config(self) -> PreTrainedConfig:
        """Read the configuration."""
        return AutoConfig.from_pretrained(self.path)

    @property
    def selector_inputs(self) -> dict[str, Any]:
        """Fields of `LiteSelectorConfig`: four patches of the tower per token, without deepstack features."""
        vision = self.model_config.vision_config
        unseen = len(vars(vision).get("deepstack_visual_indexes") or ()) * vision.out_hidden_size
        return {"projector": "qwen3_vl", "vision_size": vision.hidden_size, "unseen_size": unseen}

    def sample(self, num_frames: int, fps: float) -> list[int]:
        """Choose about `fps` frames per second, an even number from 4 to `max_frames`; all frames of a shorter clip."""
        return even_frames(num_frames, fps, self.fps, self.max_frames)

    def on_picture(self, tokens: Tensor, grid: Sequence[int]) -> Tensor:
        """Arrange one value per token on the frames; every token lies on a frame."""
        return tokens.reshape(*grid)

    def prompter(self) -> Qwen3VLPrompter:
        """Build the prompter of Qwen3-VL."""
        return Qwen3VLPrompter(self)

    def load(self, options: LoadOptions) -> Qwen3VLM:
        """Load the weights and build the device half."""
        kind = self.models[self.model_config.model_type]
        return self.wrap(load_weights(kind, self.path, self.model_config, options))

    def wrap(self, model: PreTrainedModel) -> Qwen3VLM:
        """Build the device half from a loaded model."""
        batch_windows(model.model.visual)
        return Qwen3VLM(model, self)


class Qwen3VLPrompter(Prompter):
    """Tokenizer, resize rule and prompt of Qwen3-VL."""

    query = QUERY

    def __init__(self, family: Qwen3VL) -> None:
        self.family = family
        special = {"<|im_end|>": None, AFTER: family.model_config.vision_end_token_id}
        self.tokenizer = checked_tokenizer(
            family.path, AutoTokenizer.from_pretrained, special, family.model_config.get_text_config()
        )
        self.prefix_ids = self.ids(PREFIX)

    def resize(self, frames: Tensor) -> Tensor:
        """Resize sides to multiples of 32, with the area between the family's bounds; bicubic, antialiased, uint8."""
        return resize_to_area(frames, FACTOR, self.family.min_pixels, self.family.max_pixels)

    def clip(self, frames: Tensor, seconds: Tensor | None = None) -> VideoClip:
        """Pair frames into units, each after a timestamp: the mean time of its frames. Repeat an odd last frame."""
        step = 1 / self.family.fps  # unknown times are taken as sampled at `fps`
        times = torch.arange(len(frames)) * step if seconds is None else seconds
        frames, times = pad_to_even(frames), pad_to_even(times).view(-1, UNIT_FRAMES).mean(1)
        after = self.ids(AFTER)
        delimiters = tuple((self.ids(BEFORE.format(seconds=time)), after) for time in times.tolist())
        height, width = frames.shape[1:3]
        return VideoClip(frames, (len(times), height // FACTOR, width // FACTOR), 1.0, seconds, delimiters)

    @cached_property
    def _processor(self) -> Qwen3VLVideoProcessor:
        return Qwen3VLVideoProcessor(do_resize=False, do_sample_frames=False, cap_pixels_per_frame=False)

    def pixel_values(self, clip: VideoClip, first: int, last: int) -> Tensor:
        """Make normalised patches of units [first, last): float32 [(last - first) * 4hw, 1536]."""
        frames = clip.pixels[first * UNIT_FRAMES : last * UNIT_FRAMES].permute(0, 3, 1, 2)  # [t, 3, h, w]
        return self._processor(videos=[frames], return_tensors="pt")["pixel_values_videos"]


class Qwen3VLM(VideoLM):
    """A loaded Qwen3-VL."""

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
        """Run the vision tower: [4V, 1536] to [V, 4608 + E * D].

        The four patches of a token are concatenated, and E deepstack features are appended.
        """
        patches = torch.tensor([[grid[0], grid[1] * MERGE, grid[2] * MERGE]], device=self.device)
        with replace_module(self.model.model.visual, "merger", SideBySide(MERGE**2)):
            out = self.model.get_video_features(pixel_values.to(self.device), patches, return_dict=True)
        # transformers 5.17 and 5.23 return different types here
        deep = vars(out).get("deepstack_features") or ()
        layers = [layer if isinstance(layer, Tensor) else layer[0] for layer in deep]
        return torch.cat([out.pooler_output[0], *layers], dim=-1)

    def project(self, vision: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Run the merger; deepstack features do not change: [V, 4608 + E * D] to [V, (1 + E) * D]."""
        size = MERGE**2 * self.model.config.vision_config.hidden_size
        patches = vision[:, :size].unflatten(1, (MERGE**2, -1)).flatten(0, 1)
        return torch.cat([self.model.model.visual.merger(patches), vision[:, size:]], dim=-1).to(self.device)

    def projector_weights(self) -> dict[str, Tensor]:
        """Return the weights of the merger."""
        return {f"merger.{name}": weight for name, weight in self.model.model.visual.merger.state_dict().items()}

    def position_ids(self, layout: Layout, grid: Sequence[int], seconds_per_unit: float) -> Tensor:
        """Compute M-RoPE positions: int64 [3, N]. Timestamps are text, so each unit is placed like an image."""
        units, rows, columns = grid
        step = (~layout.visual).long()  # distance to the next token
        step[layout.visual.nonzero().flatten().view(units, -1)[:, -1]] = max(rows, columns)
        position_ids = (step.cumsum(0) - step).expand(3, -1).clone()
        row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        position_ids[1, layout.visual] += row.flatten().repeat(units)
        position_ids[2, layout.visual] += column.flatten().repeat(units)
        return position_ids

    def logits_from_pixels(self, prompt: VideoPrompt) -> Tensor:
        """Run transformers' whole model, see `qwen_logits`."""
        return qwen_logits(self, prompt, MERGE)

    def prompt_from_tensors(self, **tensors: Tensor) -> VideoPrompt:
        """Split a prompt at its runs of video placeholders, one run per unit.

        Args:
            tensors: `input_ids` int64 [1, N] or [N]; `pixel_values_videos` float [4V, 1536]; `video_grid_thw` int64
                [1, 3], in patches.
        """
        ids = tensors["input_ids"].flatten()
        units, height, width = tensors["video_grid_thw"].flatten().tolist()
        grid = (units, height // MERGE, width // MERGE)
        runs = [
            (key, torch.stack(list(run))) for key, run in itertools.groupby(ids, lambda i: bool(i == self.visual_id))
        ]
        lengths = [len(run) for visual, run in runs if visual]
        if lengths != [grid[1] * grid[2]] * units or runs[0][0]:
            raise ValueError(
                f"the prompt has runs of {lengths} video placeholders (id {self.visual_id}) "
                f"but the grid {grid} needs text and then {units} runs of {grid[1] * grid[2]}"
            )
        texts = [run for visual, run in runs if not visual]
        prefix, delimiters, query = _split_at_units(texts, self.model.config.vision_end_token_id)
        clip = VideoClip(tensors["pixel_values_videos"], grid, delimiters=delimiters)
        return VideoPrompt(clip, prefix, query)


def _split_at_units(texts: list[Tensor], end_id: int) -> tuple[Tensor, tuple[Delimiters, ...], Tensor]:
    """Split the texts before, between and after units, int64 [*] each, into prefix, delimiters and query.

    `end_id` ends a unit. All timestamps begin with the same token, which shows where the first timestamp begins.
    """
    afters, befores = [], [texts[0][:0]]
    for text in texts[1:]:
        end = int((text == end_id).nonzero()[0]) + 1 if bool((text == end_id).any()) else 0
        afters.append(text[:end])
        befores.append(text[end:])
    *befores, query = befores
    start = len(texts[0])
    if len(befores) > 1 and len(befores[1]) and bool((texts[0] == befores[1][0]).any()):
        start = int((texts[0] == befores[1][0]).nonzero()[-1])
    befores[0] = texts[0][start:]
    return texts[0][:start], tuple(zip(befores, afters)), query
