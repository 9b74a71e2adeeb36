"""MiniCPM-V 4.6: frames between <image> and </image>, before the language model of Qwen3.5-0.8B."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoTokenizer, MiniCPMV4_6Config, MiniCPMV4_6ForConditionalGeneration, PreTrainedModel

from flexselect.attention.windows import batch_windows
from flexselect.families.base import VideoFamily, VideoLM
from flexselect.families.inputs import at_least, plain_positions, prompt_of_template, resize_to
from flexselect.families.prompter import Prompter
from flexselect.families.timestamped import REFERENCE_LAYERS
from flexselect.loading.tokenizer_files import checked_tokenizer
from flexselect.loading.weights import LoadOptions, load_weights
from flexselect.structures.layout import Layout, lay_out
from flexselect.structures.prompt import VideoClip, VideoPrompt

PATCH = 14  # pixels
MERGES = 2  # the tower merges 2x2 patches in its middle, the projector once more
FACTOR = PATCH * 2**MERGES  # pixels per token, in each direction
ASSISTANT = "<|im_start|>assistant\n"
NUMBER = "<image_id>0</image_id>"  # a video is the first picture


class MiniCPMV(VideoFamily):
    """MiniCPM-V 4.6 checkpoints. Each frame is one picture, without slices; thinking is switched off.

    Args:
        path: local folder or hub id.
        fps: frames sampled per second; `inf` takes `max_frames` uniformly.
        max_frames: the maximum number of frames per video.
        max_pixels: frames are resized to about this area.
        sampling: "exact": frames at even distances; "near": for each of them, the frame nearby that is the cheapest to
            decode. Several times faster for long videos.
        tolerance: seconds by which a frame of "near" may move; None: half the distance of the frames.
    """

    name = "MiniCPM-V"
    frames_per_unit = 1
    numbers = ("fps", "max_frames", "max_pixels", "sampling", "tolerance")
    published_layers = REFERENCE_LAYERS
    published_budget = 7040
    default_positions = "compact"
    released_budget_in_units = False
    selector_inputs = None

    def __init__(
        self,
        path: str,
        fps: float | None = None,
        max_frames: int | None = None,
        max_pixels: int | None = None,
        sampling: Literal["exact", "near"] = "exact",
        tolerance: float | None = None,
    ) -> None:
        defaults = self.open(path, sampling, tolerance)
        self.fps = at_least("fps", 1e-9, fps, defaults.get("fps", 1.0))
        self.max_frames = at_least("max_frames", 1, max_frames, defaults.get("max_frames", 512))
        self.max_pixels = at_least("max_pixels", FACTOR**2, max_pixels, defaults.get("max_pixels", 448**2))
        if self.model_config.merger_times != 1 or self.model_config.downsample_mode != "16x":
            raise ValueError(f"{path}: its merger is not the one that was published with MiniCPM-V 4.6")

    @staticmethod
    def claims(config: dict[str, Any]) -> bool:
        """Return whether `model_type` in a config.json is MiniCPM-V 4.6's."""
        return config.get("model_type") == "minicpmv4_6"

    def read_model_config(self) -> MiniCPMV4_6Config:
        """Read the configuration."""
        return MiniCPMV4_6Config.from_pretrained(self.path)

    def sample(self, num_frames: int, fps: float) -> list[int]:
        """Choose about `fps` frames per second, at most `max_frames`, spread over the whole clip."""
        wanted = self.max_frames if self.fps == float("inf") else round(num_frames / fps * self.fps)
        count = min(max(wanted, 1), self.max_frames, num_frames)
        return torch.linspace(0, num_frames - 1, count).round().long().tolist()

    def on_picture(self, tokens: Tensor, grid: Sequence[int]) -> Tensor:
        """Arrange one value per token on the frames; every token lies on a frame."""
        return tokens.reshape(*grid)

    def prompter(self) -> MiniCPMVPrompter:
        """Build the prompter of MiniCPM-V."""
        return MiniCPMVPrompter(self)

    def load(self, options: LoadOptions) -> MiniCPMVLM:
        """Load the weights and build the device half."""
        return self.wrap(load_weights(MiniCPMV4_6ForConditionalGeneration, self.path, self.model_config, options))

    def wrap(self, model: PreTrainedModel) -> MiniCPMVLM:
        """Build the device half from a loaded model."""
        batch_windows(model.model.vision_tower)
        return MiniCPMVLM(model, self)


class MiniCPMVPrompter(Prompter):
    """Tokenizer, resize rule and prompt of MiniCPM-V, from the checkpoint's chat template."""

    token_side = FACTOR

    def __init__(self, family: MiniCPMV) -> None:
        self.family = family
        special = {"<|im_end|>": None, "<image>": None, "</image>": None}
        load = AutoTokenizer.from_pretrained
        self.tokenizer = checked_tokenizer(family.path, load, special, family.model_config.get_text_config())
        before, after = prompt_of_template(self.tokenizer, family.path, "<|video_pad|>")
        query, start, self.opening = after.partition(ASSISTANT)
        self.prefix_ids, self.query = self.ids(before + NUMBER), query + start

    def resize(self, frames: Tensor) -> Tensor:
        """Resize to about `max_pixels`, with about the same aspect ratio, in multiples of 56 pixels; bicubic, uint8."""
        ratio = frames.shape[2] / frames.shape[1]
        height = int(math.sqrt(self.family.max_pixels / ratio))
        return resize_to(frames, *(max(round(side / FACTOR), 1) * FACTOR for side in (height, int(height * ratio))))

    def clip(self, frames: Tensor, seconds: Tensor | None = None) -> VideoClip:
        """Make a clip with one unit per frame, between <image> and </image>."""
        height, width = frames.shape[1:3]
        delimiters = ((self.ids("<image>"), self.ids("</image>")),) * len(frames)
        return VideoClip(frames, (len(frames), height // FACTOR, width // FACTOR), 1.0, seconds, delimiters)

    def pixel_values(self, clip: VideoClip, first: int, last: int) -> Tensor:
        """Normalise frames [first, last) to -1..1: float32 [last - first, 3, h, w]."""
        return clip.pixels[first:last].permute(0, 3, 1, 2).float() / 127.5 - 1


class MiniCPMVLM(VideoLM):
    """A loaded MiniCPM-V."""

    units_per_step = 32

    @property
    def visual_id(self) -> int:
        """The placeholder id of a visual token."""
        return self.model.config.video_token_id

    @property
    def decoder(self) -> Any:
        """The text model."""
        return self.model.model.language_model

    def packed(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Pack the patches of frames [t, 3, h, w] into one row, [1, 3, 14, t * hw / 14]; also return sizes [t, 2]."""
        frames, _, height, width = pixel_values.shape
        strips = pixel_values.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)  # [t, 3, rows, columns, 14, 14]
        row = strips.permute(1, 4, 0, 2, 3, 5).flatten(2)  # [3, 14, t * rows * columns * 14]
        return row[None], torch.tensor([[height // PATCH, width // PATCH]] * frames, device=self.device)

    def vision(self, pixel_values: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Run the vision tower: [t, 3, h, w] to [V, 4C], the four places of a token side by side."""
        row, sizes = self.packed(pixel_values.to(self.device, self.model.dtype))
        hidden = self.model.model.vision_tower(row, target_sizes=sizes).last_hidden_state
        units, rows, columns = grid
        places = hidden.view(units, rows, 2, columns, 2, -1).transpose(2, 3)
        return places.reshape(units * rows * columns, -1)

    def project(self, vision: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Run the merger: [V, 4C] to [V, D]."""
        return self.model.model.merger.mlp[0](vision).to(self.device)

    def projector_weights(self) -> dict[str, Tensor]:
        """Return nothing: there is no selector of this family."""
        return {}

    def position_ids(self, layout: Layout, grid: Sequence[int], seconds_per_unit: float) -> Tensor:
        """Return the positions 0, 1, 2, ...: int64 [1, N]."""
        return plain_positions(layout)

    def prompt_from_tensors(self, **tensors: Tensor) -> VideoPrompt:
        """Refuse: the model's own pixels are packed, and their frames cannot be told apart without their sizes."""
        raise ValueError("a prompt of MiniCPM-V is made from frames: use fs.open(frames)")

    @torch.inference_mode()
    def logits_from_pixels(self, prompt: VideoPrompt) -> Tensor:
        """Run transformers' whole model, which fills the placeholders itself: float32 [vocab]."""
        clip, texts = prompt.clip, (prompt.prefix_ids, prompt.query_ids)
        units, rows, columns = clip.grid
        layout = lay_out(*texts, range(units), rows * columns, self.visual_id, clip.delimiters)
        row, sizes = self.packed(self._pixel_values(clip, 0, clip.num_units).to(self.device, self.model.dtype))
        ids = layout.ids[None].to(self.device)
        out = self.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values_videos=row,
            target_sizes_videos=sizes,
        )
        return out.logits[0, -1].float()
