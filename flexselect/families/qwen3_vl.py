"""Qwen3-VL: a timestamp before each unit; deepstack features in several layers.

Dense models and mixtures of experts differ in nothing that is seen here.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeForConditionalGeneration,
    Qwen3VLVideoProcessor,
)

from flexselect.families.timestamped import MERGE, TimestampedFamily, TimestampedLM, TimestampedPrompter, texts_around
from flexselect.loading.tokenizer_files import checked_tokenizer
from flexselect.running.vision_tower import SideBySide, replace_module
from flexselect.structures.layout import Delimiters
from flexselect.structures.prompt import VideoClip, VideoPrompt

PREFIX = "<|im_start|>user\n"
BEFORE = "<{seconds:.1f} seconds><|vision_start|>"
AFTER = "<|vision_end|>"
QUERY = "{question}<|im_end|>\n<|im_start|>assistant\n"


class Qwen3VL(TimestampedFamily):
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
    factor = 16 * MERGE
    models: ClassVar[dict[str, Any]] = {
        "qwen3_vl": Qwen3VLForConditionalGeneration,
        "qwen3_vl_moe": Qwen3VLMoeForConditionalGeneration,
    }

    @property
    def selector_inputs(self) -> dict[str, Any]:
        """Fields of `LiteSelectorConfig`: four patches of the tower per token, without deepstack features."""
        vision = self.model_config.vision_config
        unseen = len(vars(vision).get("deepstack_visual_indexes") or ()) * vision.out_hidden_size
        return {"projector": "qwen3_vl", "vision_size": vision.hidden_size, "unseen_size": unseen}

    def prompter(self) -> Qwen3VLPrompter:
        """Build the prompter of Qwen3-VL."""
        return Qwen3VLPrompter(self)

    def device_half(self, model: PreTrainedModel) -> Qwen3VLM:
        """Build the device half from a model whose tower is prepared."""
        return Qwen3VLM(model, self)


class Qwen3VLPrompter(TimestampedPrompter):
    """Tokenizer and prompt of Qwen3-VL."""

    query = QUERY

    def __init__(self, family: Qwen3VL) -> None:
        super().__init__(family)
        special = {"<|im_end|>": None, AFTER: family.model_config.vision_end_token_id}
        self.tokenizer = checked_tokenizer(
            family.path, AutoTokenizer.from_pretrained, special, family.model_config.get_text_config()
        )
        self.prefix_ids = self.ids(PREFIX)

    def delimiters(self, times: Tensor) -> tuple[Delimiters, ...]:
        """Make the text around each unit: before it the mean time of its frames."""
        after = self.ids(AFTER)
        return tuple((self.ids(BEFORE.format(seconds=time)), after) for time in times.mean(1).tolist())

    @cached_property
    def processor(self) -> Qwen3VLVideoProcessor:
        """The video processor of transformers, which normalises pixels and cuts patches."""
        return Qwen3VLVideoProcessor(do_resize=False, do_sample_frames=False, cap_pixels_per_frame=False)


class Qwen3VLM(TimestampedLM):
    """A loaded Qwen3-VL."""

    @property
    def visual_id(self) -> int:
        """The placeholder id of a visual token."""
        return self.model.config.video_token_id

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

    def prompt_from_tensors(self, **tensors: Tensor) -> VideoPrompt:
        """Split a prompt at its runs of video placeholders, one run per unit.

        Args:
            tensors: `input_ids` int64 [1, N] or [N]; `pixel_values_videos` float [4V, 1536]; `video_grid_thw` int64
                [1, 3], in patches.
        """
        units, height, width = tensors["video_grid_thw"].flatten().tolist()
        grid = (units, height // MERGE, width // MERGE)
        texts = texts_around(tensors["input_ids"].flatten(), self.visual_id, grid)
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
