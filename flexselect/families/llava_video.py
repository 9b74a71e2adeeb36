"""LLaVA-Video: units are frames of 14 rows of 14 tokens and a newline; positions are plain.

LLaVA-OneVision differs only in its newlines: it has a single one, after the last frame.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
)

from flexselect.families.base import VideoFamily, VideoLM
from flexselect.families.inputs import at_least, plain_positions, resize_to_square, with_newlines
from flexselect.families.prompter import Prompter
from flexselect.loading.llava_qwen import (
    NEWLINES,
    LlavaVideoForConditionalGeneration,
    is_llava_qwen,
    llava_config,
)
from flexselect.loading.tokenizer_files import checked_tokenizer
from flexselect.loading.weights import LoadOptions, load_weights
from flexselect.running.vision_tower import replace_module
from flexselect.structures.layout import Delimiters, Layout
from flexselect.structures.prompt import VideoClip, VideoPrompt
from flexselect.validation import check_choice

PREFIX = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
QUERY = "\n{question}<|im_end|>\n<|im_start|>assistant\n"

PLACEHOLDERS = (151646, -200)  # placeholder of the whole clip in the released evaluation and in the original project
UNMARKED = (
    "{} does not say whether it is a LLaVA-Video or a LLaVA-OneVision checkpoint, and is read as LLaVA-Video; "
    'set newlines="grid" if that is right, or newlines="one_token" if it is LLaVA-OneVision'
)

REFERENCE_LAYERS = {28: 19, 80: 60}  # published: 7B and 72B


class LlavaVideo(VideoFamily):
    """LLaVA-Video or LLaVA-OneVision checkpoints, as their authors released them or in Hugging Face layout.

    Args:
        path: local folder or hub id.
        fps: frames sampled per second; `inf` takes `max_frames` uniformly.
        max_frames: the maximum number of frames per video.
        newlines: "grid": after each row of tokens, as LLaVA-Video was trained; "one_token": after the last frame, as
            LLaVA-OneVision was trained; None: as `mm_newline_position` in config.json says.
        sampling: "exact": the frames of the published rule; "near": for each of them, the frame nearby that is the
            cheapest to decode. Several times faster for long videos.
        tolerance: seconds by which a frame of "near" may move; None: half the distance of the published frames.
    """

    name = "LLaVA-Video"
    frames_per_unit = 1
    numbers = ("fps", "max_frames", "newlines", "sampling", "tolerance")
    published_layers = REFERENCE_LAYERS
    default_positions = "compact"
    penalises_prompt = False  # the released code generates from embeddings alone
    released_budget_in_units = False
    published_budget = 6720

    def __init__(
        self,
        path: str,
        fps: float | None = None,
        max_frames: int | None = None,
        newlines: Literal["grid", "one_token"] | None = None,
        sampling: Literal["exact", "near"] = "exact",
        tolerance: float | None = None,
    ) -> None:
        defaults = self.open(path, sampling, tolerance)
        self.newlines = newlines or self.model_config.to_dict().get("mm_newline_position")
        if self.newlines is None:  # config.json is in Hugging Face's layout
            warnings.warn(UNMARKED.format(path), stacklevel=2)
            self.newlines = "grid"
        check_choice("newlines", self.newlines, NEWLINES)
        self.fps = at_least("fps", 1e-9, fps, defaults.get("fps", 1.0))
        self.max_frames = at_least("max_frames", 1, max_frames, defaults.get("max_frames", 512))

    @staticmethod
    def claims(config: dict[str, Any]) -> bool:
        """Return whether a config.json is in the authors' layout, or in Hugging Face's layout of LLaVA-OneVision."""
        return is_llava_qwen(config) or config.get("model_type") == "llava_onevision"

    def read_model_config(self) -> LlavaOnevisionConfig:
        """Read the configuration from the authors' layout or Hugging Face's."""
        if is_llava_qwen(self.config):
            return llava_config(self.path, self.config)
        return LlavaOnevisionConfig.from_pretrained(self.path)

    @property
    def side(self) -> int:
        """Height and width of a frame in pixels: 384."""
        return self.model_config.vision_config.image_size

    @property
    def unit_shape(self) -> tuple[int, int]:
        """Rows and columns of a frame's tokens: 27 x 27 patches pooled to 14 x 14, plus a newline per row."""
        rows = math.ceil(self.side // self.model_config.vision_config.patch_size / 2)
        return rows, rows + (self.newlines == "grid")

    @property
    def selector_inputs(self) -> dict[str, Any] | None:
        """Fields of `LiteSelectorConfig`: SigLIP's features. Selectors exist for newlines after each row only."""
        if self.newlines != "grid":
            return None
        return {"projector": "llava", "vision_size": self.model_config.vision_config.hidden_size}

    def sample(self, num_frames: int, fps: float) -> list[int]:
        """Choose every n-th frame, n = round(file's fps / `fps`); at most `max_frames`, then spread evenly."""
        stride = max(1, round(fps / self.fps))
        indices = list(range(0, num_frames, stride))
        if len(indices) > self.max_frames or self.fps == float("inf"):
            count = min(self.max_frames, num_frames)
            return np.linspace(0, num_frames - 1, count, dtype=int).tolist()
        return indices

    def delimiters(self, units: int) -> tuple[Delimiters, ...]:
        """Return the text around each unit: a newline after the last frame; empty if each row has a newline.

        The newline is written as the id of a visual token, see `LlavaVideoLM.embed`.
        """
        if self.newlines == "grid":
            return ()
        empty, newline = torch.empty(0, dtype=torch.long), torch.tensor([self.model_config.image_token_id])
        return (*[(empty, empty)] * (units - 1), (empty, newline))

    def on_picture(self, tokens: Tensor, grid: Sequence[int]) -> Tensor:
        """Arrange one value per token on square frames; the newlines of rows are left out."""
        rows = tokens.reshape(*grid)
        return rows[..., :-1] if self.newlines == "grid" else rows

    def prompter(self) -> LlavaVideoPrompter:
        """Build the prompter of LLaVA-Video."""
        return LlavaVideoPrompter(self)

    def load(self, options: LoadOptions) -> LlavaVideoLM:
        """Load the weights, in the authors' layout or Hugging Face's."""
        authors_layout = is_llava_qwen(self.config)
        model_class = LlavaVideoForConditionalGeneration if authors_layout else LlavaOnevisionForConditionalGeneration
        return self.wrap(load_weights(model_class, self.path, self.model_config, options))

    def wrap(self, model: PreTrainedModel) -> LlavaVideoLM:
        """Build the device half from a loaded model."""
        return LlavaVideoLM(model, self)


class LlavaVideoPrompter(Prompter):
    """Tokenizer, resize rule and prompt of LLaVA-Video."""

    query = QUERY

    def __init__(self, family: LlavaVideo) -> None:
        self.family = family
        special = {"<|im_start|>": None, "<|im_end|>": None}
        # With an empty configuration: AutoTokenizer takes "llava" for a model with a tokenizer of another kind.
        load = partial(AutoTokenizer.from_pretrained, config=PreTrainedConfig())
        self.tokenizer = checked_tokenizer(family.path, load, special, family.model_config.get_text_config())
        self.prefix_ids = self.ids(PREFIX)

    def resize(self, frames: Tensor) -> Tensor:
        """Resize to 384 x 384, without keeping the aspect ratio; PIL's bicubic filter, as the released processor."""
        return resize_to_square(frames, self.family.side)

    def clip(self, frames: Tensor, seconds: Tensor | None = None) -> VideoClip:
        """Make a clip with one unit per frame."""
        grid = (len(frames), *self.family.unit_shape)
        return VideoClip(frames, grid, seconds=seconds, delimiters=self.family.delimiters(len(frames)))

    def pixel_values(self, clip: VideoClip, first: int, last: int) -> Tensor:
        """Scale frames [first, last) to -1..1: float32 [last - first, 3, 384, 384]."""
        return (clip.pixels[first:last].permute(0, 3, 1, 2).float() * (1 / 255) - 0.5) / 0.5


class LlavaVideoLM(VideoLM):
    """A loaded LLaVA-Video."""

    family: LlavaVideo
    units_per_step = 32

    @property
    def visual_id(self) -> int:
        """The placeholder id of a visual token."""
        return self.model.config.image_token_id

    @property
    def decoder(self) -> Any:
        """The text model."""
        return self.model.model.language_model

    def vision(self, pixel_values: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Run SigLIP without its last layer: [t, 3, 384, 384] to [t, 729, 1152]."""
        pixel_values, tower = pixel_values.to(self.device, self.model.dtype), self.model.model.vision_tower
        with replace_module(tower, "post_layernorm", nn.Identity()):  # asking for hidden states would keep all of them
            return tower(pixel_values).last_hidden_state

    def project(self, vision: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Project, pool to 14 x 14, add a newline after each row: [t, 729, 1152] to [210 t, D], or [196 t, D]."""
        model = self.model.model
        pooled = model.apply_pooling(model.multi_modal_projector(vision))  # [t, 196, D]
        if self.family.newlines == "one_token":
            return pooled.flatten(0, 1).to(self.device)
        return with_newlines(pooled, model.image_newline).to(self.device)

    def embed(self, ids: Tensor) -> Tensor:
        """Embed text ids [...]: [..., D]; the id of a visual token stands for a newline."""
        newline = ids == self.visual_id
        embedded = super().embed(ids.masked_fill(newline, 0))
        return torch.where(
            newline.to(embedded.device)[..., None], self.model.model.image_newline.to(embedded), embedded
        )

    def projector_weights(self) -> dict[str, Tensor]:
        """Return the weights of the projector, and the newline."""
        return {**self.model.model.multi_modal_projector.state_dict(), "newline": self.model.model.image_newline.data}

    @torch.inference_mode()
    def logits_from_pixels(self, prompt: VideoPrompt) -> Tensor:
        """Run transformers' tower, projector, pooling and language model; the newlines are put in here."""
        model, clip = self.model.model, prompt.clip
        pixels = self._pixel_values(clip, 0, clip.num_units)[None].to(self.device, self.model.dtype)
        visual = model.get_video_features(pixels).pooler_output[0]  # [196 t + 1, D], the newline last
        if self.family.newlines == "grid":
            rows = visual[:-1].unflatten(0, (-1, clip.grid[2] - 1))  # [14 t, 14, D]
            visual = torch.cat([rows, visual[-1].expand(len(rows), 1, -1)], 1).flatten(0, 1)
        texts = (model.get_input_embeddings()(ids.to(self.device)) for ids in (prompt.prefix_ids, prompt.query_ids))
        before, after = texts
        embedded = torch.cat([before, visual.to(before), after])[None]
        return self.model(inputs_embeds=embedded, use_cache=False).logits[0, -1].float()

    def position_ids(self, layout: Layout, grid: Sequence[int], seconds_per_unit: float) -> Tensor:
        """Return the positions 0, 1, 2, ...: int64 [1, N]."""
        return plain_positions(layout)

    def prompt_from_tensors(self, **tensors: Tensor) -> VideoPrompt:
        """Split a prompt at its placeholder.

        Args:
            tensors: `input_ids` int64 [1, N] or [N] with one placeholder, 151646 or -200, for the whole clip;
                `pixel_values` float [T, 3, 384, 384].
        """
        ids, pixels = tensors["input_ids"].flatten(), tensors["pixel_values"]
        places = torch.isin(ids, torch.tensor([*PLACEHOLDERS, self.visual_id])).nonzero().flatten().tolist()
        if len(places) != 1:
            raise ValueError(f"the prompt must have one placeholder for the clip, it has {len(places)}")
        clip = VideoClip(pixels, (len(pixels), *self.family.unit_shape), delimiters=self.family.delimiters(len(pixels)))
        return VideoPrompt(clip, ids[: places[0]], ids[places[0] + 1 :])
