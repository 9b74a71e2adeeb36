"""InternVL2.5, 3 and 3.5: units are frames of 256 tokens between two delimiters, which count as visual tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import InternVLConfig, InternVLForConditionalGeneration, PreTrainedModel

from flexselect.families.base import VideoFamily, VideoLM
from flexselect.families.inputs import at_least, between_delimiters, plain_positions, resize_to_square
from flexselect.families.prompter import Prompter
from flexselect.loading.internlm2_tokenizer import load_tokenizer, special_tokens
from flexselect.loading.internvl_chat import (
    InternVLChatForConditionalGeneration,
    internvl_config,
    is_internvl_chat,
)
from flexselect.loading.tokenizer_files import checked_tokenizer
from flexselect.loading.weights import LoadOptions, load_weights
from flexselect.running.vision_tower import replace_module
from flexselect.structures.layout import Layout
from flexselect.structures.prompt import VideoClip, VideoPrompt

SYSTEM = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
PREFIX = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
QUERY = "{question}<|im_end|>\n<|im_start|>assistant\n"

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

REFERENCE_LAYERS = {32: 15}  # published: 8B


class InternVL(VideoFamily):
    """InternVL2.5, InternVL3 and InternVL3.5 checkpoints, as their authors released them or in Hugging Face layout.

    Args:
        path: local folder or hub id.
        fps: frames sampled per second; `inf` takes `max_frames` uniformly.
        max_frames: the maximum number of frames per video.
        sampling: "exact": the frames of the published rule; "near": for each of them, the frame nearby that is the
            cheapest to decode. Several times faster for long videos.
        tolerance: seconds by which a frame of "near" may move; None: half the distance of the published frames.
    """

    name = "InternVL"
    frames_per_unit = 1
    numbers = ("fps", "max_frames", "sampling", "tolerance")
    published_layers = REFERENCE_LAYERS
    default_positions = "compact"
    penalises_prompt = False  # the released code generates from embeddings alone
    released_budget_in_units = False
    published_budget = 8256

    def __init__(
        self,
        path: str,
        fps: float | None = None,
        max_frames: int | None = None,
        sampling: Literal["exact", "near"] = "exact",
        tolerance: float | None = None,
    ) -> None:
        defaults = self.open(path, sampling, tolerance)
        self.fps = at_least("fps", 1e-9, fps, defaults.get("fps", 1.0))
        self.max_frames = at_least("max_frames", 1, max_frames, defaults.get("max_frames", 512))

    @staticmethod
    def claims(config: dict[str, Any]) -> bool:
        """Return whether a config.json is in the authors' layout or Hugging Face's."""
        return is_internvl_chat(config) or config.get("model_type") == "internvl"

    def read_model_config(self) -> InternVLConfig:
        """Read the configuration from the authors' layout or Hugging Face's."""
        if is_internvl_chat(self.config):
            return internvl_config(self.path, self.config)
        return InternVLConfig.from_pretrained(self.path)

    @property
    def side(self) -> int:
        """Height and width of a frame in pixels: 448."""
        return self.model_config.vision_config.image_size[0]

    @property
    def tokens_per_unit(self) -> int:
        """Visual tokens per frame, delimiters included: 258."""
        return self.model_config.image_seq_length + 2

    @property
    def is_internlm2(self) -> bool:
        """Whether the language model is InternLM2 (a Llama for transformers) rather than Qwen2 or Qwen3."""
        return self.model_config.text_config.model_type == "llama"

    @property
    def special_ids(self) -> dict[str, int]:
        """Ids of <img> and </img>, from the tokenizer; without a tokenizer, the released ids."""
        from_tokenizer, context = special_tokens(self.path), self.model_config.image_token_id
        released = {"<img>": context - 2, "</img>": context - 1}
        return {name: from_tokenizer.get(name, number) for name, number in released.items()}

    @property
    def selector_inputs(self) -> dict[str, Any]:
        """Fields of `LiteSelectorConfig`: InternViT's features after pixel shuffle, and the ids of <img> and </img>."""
        size = round(self.model_config.vision_config.hidden_size / self.model_config.downsample_ratio**2)
        delimiters = [self.special_ids["<img>"], self.special_ids["</img>"]]
        return {"projector": "internvl", "vision_size": size, "brackets": delimiters}

    def sample(self, num_frames: int, fps: float) -> list[int]:
        """Choose the middle frame of about `fps` segments per second: 1 to `max_frames` frames."""
        last = num_frames - 1
        count = self.max_frames if self.fps == float("inf") else min(self.max_frames, int(last / fps * self.fps))
        count = max(1, min(count, num_frames))
        length = last / count
        return [min(last, int(length / 2 + round(length * i))) for i in range(count)]

    def on_picture(self, tokens: Tensor, grid: Sequence[int]) -> Tensor:
        """Arrange one value per token on square frames; delimiters are left out."""
        inner = tokens.reshape(grid[0], -1)[:, 1:-1]
        side = math.isqrt(inner.shape[1])
        return inner.reshape(grid[0], side, side)

    def prompter(self) -> InternVLPrompter:
        """Build the prompter of InternVL2.5."""
        return InternVLPrompter(self)

    def load(self, options: LoadOptions) -> InternVLLM:
        """Load the weights, in the authors' layout or Hugging Face's."""
        authors_layout = is_internvl_chat(self.config)
        model_class = InternVLChatForConditionalGeneration if authors_layout else InternVLForConditionalGeneration
        return self.wrap(load_weights(model_class, self.path, self.model_config, options))

    def wrap(self, model: PreTrainedModel) -> InternVLLM:
        """Build the device half from a loaded model."""
        return InternVLLM(model, self)


class InternVLPrompter(Prompter):
    """Tokenizer, resize rule and prompt of InternVL2.5."""

    query = QUERY

    def __init__(self, family: InternVL) -> None:
        self.family = family
        special = {"<|im_start|>": None, "<|im_end|>": None, **family.special_ids}
        self.tokenizer = checked_tokenizer(family.path, load_tokenizer, special, family.model_config.get_text_config())
        bos = [self.tokenizer.bos_token_id] if family.is_internlm2 else []
        self.prefix_ids = torch.cat([torch.tensor(bos, dtype=torch.long), self.ids(PREFIX)])

    def resize(self, frames: Tensor) -> Tensor:
        """Resize to one tile of 448 x 448 without keeping the aspect ratio; PIL's bicubic filter, as released."""
        return resize_to_square(frames, self.family.side)

    def clip(self, frames: Tensor, seconds: Tensor | None = None) -> VideoClip:
        """Make a clip with one unit per frame: a row of 258 tokens, delimiters included."""
        return VideoClip(frames, (len(frames), 1, self.family.tokens_per_unit), seconds=seconds)

    def pixel_values(self, clip: VideoClip, first: int, last: int) -> Tensor:
        """Normalise frames [first, last): float32 [last - first, 3, 448, 448]."""
        pixels = clip.pixels[first:last].permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (MEAN, STD))
        return (pixels - mean) / std


class InternVLLM(VideoLM):
    """A loaded InternVL2.5."""

    family: InternVL
    units_per_step = 16

    @cached_property
    def delimiters(self) -> tuple[int, int]:
        """Ids of <img> and </img>."""
        ids = self.family.special_ids
        return ids["<img>"], ids["</img>"]

    @property
    def visual_id(self) -> int:
        """The placeholder id of a visual token."""
        return self.model.config.image_token_id

    @property
    def decoder(self) -> Any:
        """The text model."""
        return self.model.model.language_model

    def vision(self, pixel_values: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Run InternViT and pixel shuffle: [t, 3, 448, 448] to [t, 256, 4096]."""
        pixel_values = pixel_values.to(self.device, self.model.dtype)
        with replace_module(self.model.model, "multi_modal_projector", nn.Identity()):
            return self.model.get_image_features(pixel_values=pixel_values, return_dict=True).pooler_output

    def project(self, vision: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Project, and add the embeddings of <img> and </img>: [t, 256, 4096] to [258 t, D]."""
        tiles = self.model.model.multi_modal_projector(vision)
        return between_delimiters(tiles, self.embed(torch.tensor(self.delimiters))).to(self.device)

    def projector_weights(self) -> dict[str, Tensor]:
        """Return the weights of the projector."""
        names = self.model.model.multi_modal_projector.state_dict().items()
        return {name.replace("layer_norm.", "norm."): weight for name, weight in names}

    def position_ids(self, layout: Layout, grid: Sequence[int], seconds_per_unit: float) -> Tensor:
        """Return the positions 0, 1, 2, ...: int64 [1, N]."""
        return plain_positions(layout)

    def prompt_from_tensors(self, **tensors: Tensor) -> VideoPrompt:
        """Split a prompt at its run of frames, from the first <img> to the last </img>.

        Args:
            tensors: `input_ids` int64 [1, N] or [N]; `pixel_values` float [T, 3, 448, 448].
        """
        ids, pixels = tensors["input_ids"].flatten(), tensors["pixel_values"]
        starts, ends = ((ids == delimiter).nonzero().flatten().tolist() for delimiter in self.delimiters)
        size, frames = self.family.tokens_per_unit, len(pixels)
        if len(starts) != frames or len(ends) != frames or ends[-1] + 1 - starts[0] != size * frames:
            raise ValueError(
                f"the prompt has {len(starts)} <img> and {len(ends)} </img> (ids {self.delimiters}) for {frames} "
                f"frames; each frame needs <img>, {size - 2} placeholders, </img>, with nothing between frames"
            )
        clip = VideoClip(pixels, (frames, 1, size))
        return VideoPrompt(clip, ids[: starts[0]], ids[ends[-1] + 1 :])

    @torch.inference_mode()
    def logits_from_pixels(self, prompt: VideoPrompt) -> Tensor | None:
        """Run transformers' whole model, which fills the placeholders itself; None: its vocabulary lacks them."""
        if self.visual_id >= self.decoder.get_input_embeddings().num_embeddings:
            return None
        clip, size = prompt.clip, self.family.tokens_per_unit
        unit = torch.full((size,), self.visual_id)
        unit[0], unit[-1] = self.delimiters
        ids = torch.cat([prompt.prefix_ids, unit.repeat(clip.num_units), prompt.query_ids])[None].to(self.device)
        pixels = self._pixel_values(clip, 0, clip.num_units).to(self.device, self.model.dtype)
        return self.model(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids)).logits[0, -1].float()
