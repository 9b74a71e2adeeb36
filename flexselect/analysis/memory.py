"""Compute the GPU memory that a model needs, from its configuration alone.

The numbers are of tensors; PyTorch's allocator and CUDA need one to two gigabytes more. A test compares them with the
tensors that are alive while a model of published size encodes, scores and answers.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import Any

from flexselect.analysis.operations import QUESTION
from flexselect.analysis.plan import Plan
from flexselect.attention.layers import Recurrence, mlp_width, states_bytes
from flexselect.families.base import VideoFamily
from flexselect.running.operations import Tower
from flexselect.scoring.attention_scorer import STORED_TOGETHER
from flexselect.scoring.frame_sets import frame_sets
from flexselect.structures.prompt import VideoClip

LONGEST = 36_000  # frames: ten hours at one frame per second
BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
QUANTIZED = {"4bit": 0.6, "8bit": 1.1}  # bytes per weight, with scales and the parts that stay in 16 bits
WIDTHS, INNERS = 8, 4  # tensors of the width of a layer, and of its MLP, that are alive together
STATES, CHUNK = 12, 64  # float32 tensors of the width of a recurrence's values; tokens of a chunk that meet each other


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


def estimate(plan: Plan, clip: VideoClip) -> Memory:
    """Compute the memory of one question about a clip; see `Plan.clip` for its shape.

    With `cost`, features of the first look stay while the second one is taken; of the first one keys and values are
    kept.
    """
    options, config, size = plan.options, plan.family.model_config, BYTES[plan.options.dtype]
    text = config.get_text_config()
    held = int(plan.weights * (QUANTIZED[options.quantization] if options.quantization else size))
    weights = held = held + plan.selector_weights * size
    levels = 1 + len(vars(config.vision_config).get("deepstack_visual_indexes") or ())
    encode, score, kept = 0, 0, list[int]()
    for part, look in plan.scored(clip):
        features = math.prod(look.grid) * text.hidden_size * levels * size
        if plan.selector is not None:
            features += math.prod(look.grid) * plan.selector.text_config.hidden_size * size
        held += features
        encode = max(encode, held + 2 * features * _at_once(look) // look.num_units + _tower(plan.family, look, size))
        passes, states = _scoring(part, look, size)
        score = max(score, held + passes)
        kept.append(states)
    prompt = plan.kept(math.prod(clip.grid)) + QUESTION
    cache = states_bytes(text, text.num_hidden_layers, prompt, 1, size)
    answer = held + prompt * text.hidden_size * levels * size + _pass(text, prompt, size) + cache
    return Memory(weights, encode, score, kept[0], answer)


def _scoring(plan: Plan, clip: VideoClip, size: int) -> tuple[int, int]:
    """Return the bytes of scoring a clip, besides its features, and those of keys and values that can be kept."""
    if not plan.ranks_content:
        return 0, 0
    scoring, layers = plan.family.model_config.get_text_config(), plan.layer + 1
    if plan.selector is not None:
        scoring = plan.selector.text_config
        layers = scoring.num_hidden_layers
    tokens, options = math.prod(clip.grid), plan.options
    sets = frame_sets(clip.num_units, tokens // clip.num_units, options.units_per_set)
    longest = max(len(tokens_of_set) for tokens_of_set in sets) + QUESTION
    together = options.tokens_per_batch or STORED_TOGETHER  # by default; fewer if a GPU has no room for them
    batch = min(max(1, together // longest) * longest, len(sets) * longest)
    passes = _pass(scoring, batch, size) + _probe(scoring, batch // longest, longest)
    return passes, states_bytes(scoring, layers, tokens, len(sets), size)


def most_frames(plan: Plan, available: float) -> int:
    """Return the most frames whose memory fits into `available` bytes, at most `LONGEST` or the config's; 0: none."""
    unit, most = plan.family.frames_per_unit, max(LONGEST, plan.max_frames)
    one = plan.clip(unit)

    def fits(units: int) -> bool:
        pixels = one.pixels[:1].expand(units * unit, -1, -1, -1)
        clip = replace(one, pixels=pixels, grid=(units, *one.grid[1:]))
        return estimate(plan, clip).peak <= available

    return unit * bisect_left(range(1, most // unit + 1), True, key=lambda units: not fits(units))


def _pass(text: Any, tokens: int, size: int) -> int:
    """Return the bytes of the activations of one layer; of a hybrid also of a recurrent one, in plain PyTorch."""
    inner = size * INNERS * mlp_width(text)
    if "linear_num_value_heads" in vars(text):
        sizes = Recurrence.of(text)
        inner = max(inner, 4 * (STATES * sizes.values + 3 * CHUNK * sizes.heads))
    return tokens * (size * WIDTHS * text.hidden_size + inner)


def _probe(text: Any, batch: int, keys: int) -> int:
    """Return the bytes of the probe: float32 logits of all heads and query rows to at most 1,024 keys, three times."""
    return 3 * batch * text.num_attention_heads * QUESTION * min(1024, keys) * 4


def _at_once(clip: VideoClip) -> int:
    """Return how many units the tower takes at once; their output is held three times for a moment."""
    return min(32, clip.num_units)


def _tower(family: VideoFamily, clip: VideoClip, size: int) -> int:
    """Return the bytes of the tower's activations for the units that it takes at once, with their pixels in float32."""
    vision, units = family.model_config.vision_config, _at_once(clip)
    height, width = clip.pixels.shape[1:3]
    pixels = units * family.frames_per_unit * height * width * 3
    patches = units * Tower.of(vision, height, width).patches
    return pixels * (2 * 4 + size) + _pass(vision, patches, size)
