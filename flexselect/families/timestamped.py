"""Units of two frames beside their time as text: what Qwen3-VL, Qwen3.5 and GLM-4.6V share.

Since text stands between the units, each is positioned like an image. The numbers are those of Qwen2.5-VL, by tokens
and relative depth, because none were published for these models.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from flexselect.attention.windows import batch_windows
from flexselect.families.base import VideoFamily, VideoLM
from flexselect.families.inputs import at_least, even_frames, pad_to_even, resize_to_area
from flexselect.families.prompter import Prompter
from flexselect.loading.weights import LoadOptions, load_weights
from flexselect.running.greedy import qwen_logits
from flexselect.structures.layout import Delimiters, Layout
from flexselect.structures.prompt import VideoClip, VideoPrompt

MERGE = 2  # patches merged into one token, in each direction
UNIT_FRAMES = 2  # frames in a temporal patch
REFERENCE_LAYERS = {28: 20, 80: 60}  # published for Qwen2.5-VL: 7B and 72B


class TimestampedFamily(VideoFamily):
    """A family whose units stand beside timestamps.

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

    frames_per_unit = UNIT_FRAMES
    numbers: tuple[str, ...] = ("fps", "max_frames", "min_pixels", "max_pixels", "sampling", "tolerance")
    published_layers = REFERENCE_LAYERS
    default_positions = "original"
    released_budget_in_units = True
    published_budget = 7040

    models: ClassVar[dict[str, Any]]  # transformers' class by `model_type`
    factor: int  # pixels per token, in each direction

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
        defaults, token = self.open(path, sampling, tolerance), self.factor**2
        self.fps = at_least("fps", 1e-9, fps, defaults.get("fps", 2.0))
        self.max_frames = at_least("max_frames", 2, max_frames, defaults.get("max_frames", 1024))
        self.min_pixels = at_least("min_pixels", 1, min_pixels, defaults.get("min_pixels", 128 * token))
        self.max_pixels = at_least("max_pixels", self.min_pixels, max_pixels, defaults.get("max_pixels", 220 * token))

    @classmethod
    def claims(cls, config: dict[str, Any]) -> bool:
        """Return whether `model_type` in a config.json is one of the family's `models`."""
        return config.get("model_type") in cls.models

    def read_model_config(self) -> PreTrainedConfig:
        """Read the configuration."""
        return AutoConfig.from_pretrained(self.path)

    def sample(self, num_frames: int, fps: float) -> list[int]:
        """Choose about `fps` frames per second, an even number from 4 to `max_frames`; all frames of a shorter clip."""
        return even_frames(num_frames, fps, self.fps, self.max_frames)

    def on_picture(self, tokens: Tensor, grid: Sequence[int]) -> Tensor:
        """Arrange one value per token on the frames; every token lies on a frame."""
        return tokens.reshape(*grid)

    def load(self, options: LoadOptions) -> VideoLM:
        """Load the weights and build the device half."""
        kind = self.models[self.model_config.model_type]
        return self.wrap(load_weights(kind, self.path, self.model_config, options))

    def wrap(self, model: PreTrainedModel) -> VideoLM:
        """Build the device half from a loaded model."""
        batch_windows(model.model.visual)
        return self.device_half(model)

    @abstractmethod
    def device_half(self, model: PreTrainedModel) -> VideoLM:
        """Build the device half from a model whose tower is prepared."""


class TimestampedPrompter(Prompter):
    """Resize rule and clips of these families."""

    def __init__(self, family: TimestampedFamily) -> None:
        self.family = family
        self.token_side = family.factor

    @abstractmethod
    def delimiters(self, times: Tensor) -> tuple[Delimiters, ...]:
        """Make the text around each unit; `times` are the seconds of its two frames, float [U, 2]."""

    @property
    @abstractmethod
    def processor(self) -> Any:
        """The video processor of transformers, which normalises pixels and cuts patches."""

    def resize(self, frames: Tensor) -> Tensor:
        """Resize sides to multiples of a token, with the area between the family's bounds; bicubic, antialiased."""
        return resize_to_area(frames, self.family.factor, self.family.min_pixels, self.family.max_pixels)

    def clip(self, frames: Tensor, seconds: Tensor | None = None) -> VideoClip:
        """Pair frames into units, each beside a timestamp. Repeat an odd last frame."""
        step = 1 / self.family.fps  # unknown times are taken as sampled at `fps`
        times = torch.arange(len(frames)) * step if seconds is None else seconds
        frames, times = pad_to_even(frames), pad_to_even(times).view(-1, UNIT_FRAMES)
        height, width = frames.shape[1:3]
        grid = (len(times), height // self.family.factor, width // self.family.factor)
        return VideoClip(frames, grid, 1.0, seconds, self.delimiters(times))

    def pixel_values(self, clip: VideoClip, first: int, last: int) -> Tensor:
        """Make normalised patches of units [first, last): float32 [(last - first) * 4hw, c]."""
        frames = clip.pixels[first * UNIT_FRAMES : last * UNIT_FRAMES].permute(0, 3, 1, 2)  # [t, 3, h, w]
        return self.processor(videos=[frames], return_tensors="pt")["pixel_values_videos"]


class TimestampedLM(VideoLM):
    """A loaded model of these families."""

    units_per_step = 32

    @property
    def decoder(self) -> Any:
        """The text model."""
        return self.model.model.language_model

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


def texts_around(ids: Tensor, visual_id: int, grid: tuple[int, int, int]) -> list[Tensor]:
    """Split a prompt at its runs of placeholders, one run per unit: the texts before, between and after, int64 [*].

    Raises:
        ValueError: if the runs do not fit the grid.
    """
    groups = itertools.groupby(ids, lambda number: bool(number == visual_id))
    runs = [(visual, torch.stack(list(run))) for visual, run in groups]
    lengths = [len(run) for visual, run in runs if visual]
    if lengths != [grid[1] * grid[2]] * grid[0] or runs[0][0]:
        raise ValueError(
            f"the prompt has runs of {lengths} video placeholders (id {visual_id}) "
            f"but the grid {grid} needs text and then {grid[0]} runs of {grid[1] * grid[2]}"
        )
    return [run for visual, run in runs if not visual]
