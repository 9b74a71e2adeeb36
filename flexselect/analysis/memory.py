"""Compute the GPU memory that a model needs, from its configuration alone.

The numbers are of tensors; PyTorch's allocator and CUDA need one to two gigabytes more. A test compares them with the
tensors that are alive while a model of published size encodes, scores and answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from flexselect.families.base import VideoFamily
from flexselect.options import Options
from flexselect.scoring.frame_sets import frame_sets
from flexselect.structures.prompt import VideoClip

TOKENS_PER_BATCH = 32768  # prompt tokens that are scored together
QUESTION = 128  # text tokens after the video
BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
QUANTIZED = {"4bit": 0.6, "8bit": 1.1}  # bytes per weight, with scales and the parts that stay in 16 bits
WIDTHS, INNERS = 8, 4  # tensors of the width of a layer, and of its MLP, that are alive together


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of each stage, weights included."""

    weights: int
    encode: int
    score: int
    prefix_cache: int  # kept keys and values, if there are any (`keep="scores_kv"`)
    answer: int

    @property
    def peak(self) -> int:
        """The peak of all stages, with features only."""
        return max(self.encode, self.score, self.answer)


def count_weights(family: VideoFamily) -> int:
    """Return the number of weights of a model, from its configuration; takes a second and no memory."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(family.model_config)
    return sum(weight.numel() for weight in model.parameters())


def clip_of(family: VideoFamily, frames: int, height: int = 720, width: int = 1280) -> VideoClip:
    """Return the shape of a clip, without pixels: frames of a video of this size as the family resizes them."""
    prompter = family.prompter()
    resized = prompter.resize(torch.zeros(1, height, width, 3, dtype=torch.uint8)).shape[1:]
    return prompter.clip(torch.empty(frames, *resized, dtype=torch.uint8, device="meta"))


def estimate(family: VideoFamily, options: Options, clip: VideoClip, weights: int, selector: Any = None) -> Memory:
    """Compute the memory of one question about a clip.

    Args:
        family: the family of the model.
        options: data type, budget and frames per set.
        clip: the shape of the clip, see `clip_of`.
        weights: number of weights, see `count_weights`.
        selector: configuration of the selector's language model; None: dense, or training-free.
    """
    config, size = family.model_config, BYTES[options.dtype]
    text, tokens = config.get_text_config(), math.prod(clip.grid)
    held = int(weights * (QUANTIZED[options.quantization] if options.quantization else size))
    levels = 1 + len(vars(config.vision_config).get("deepstack_visual_indexes") or ())
    features = tokens * text.hidden_size * levels * size
    if selector is not None:
        features += tokens * selector.hidden_size * size
    sets = frame_sets(clip.num_units, tokens // clip.num_units, options.units_per_set)
    longest = max(len(tokens_of_set) for tokens_of_set in sets) + QUESTION
    batch = min(max(1, TOKENS_PER_BATCH // longest) * longest, len(sets) * longest)
    scoring, layers = selector or text, None if options.selector is None else family.default_reference_layer + 1
    score = 0 if layers is None else _pass(scoring, batch, size) + _probe(scoring, batch // longest)
    kept = min(tokens, options.budget or family.default_budget) if options.selector else tokens
    prompt = kept + QUESTION
    cache = text.num_hidden_layers * _states(text, prompt, size)
    return Memory(
        held,
        held + features + _tower(family, clip, size),
        held + features + score,
        (layers or 0) * _states(scoring, tokens, size),
        held + features + prompt * text.hidden_size * levels * size + _pass(text, prompt, size) + cache,
    )


def _pass(text: Any, tokens: int, size: int) -> int:
    """Return the bytes of the activations of one layer."""
    return tokens * size * (WIDTHS * text.hidden_size + INNERS * text.intermediate_size)


def _probe(text: Any, batch: int) -> int:
    """Return the bytes of the probe: float32 logits of all heads and query rows to 1,024 keys, three times."""
    return 3 * batch * text.num_attention_heads * QUESTION * 1024 * 4


def _states(text: Any, tokens: int, size: int) -> int:
    """Return the bytes of one layer's keys and values."""
    head = vars(text).get("head_dim") or text.hidden_size // text.num_attention_heads
    return 2 * tokens * text.num_key_value_heads * head * size


def _tower(family: VideoFamily, clip: VideoClip, size: int) -> int:
    """Return the bytes of the tower's activations for the units that it takes at once, with their pixels in float32."""
    vision, units = family.model_config.vision_config, min(32, clip.num_units)
    height, width = clip.pixels.shape[1:3]
    patch = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
    pixels = units * family.frames_per_unit * height * width * 3
    patches = units * (height // patch) * (width // patch)
    return pixels * (2 * 4 + size) + _pass(vision, patches, size)
