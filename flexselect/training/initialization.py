"""What a new selector starts from: a small model of the family, or the VideoLLM's own first layers.

The released selectors started from llava-onevision-qwen2-0.5b-ov, from Qwen2-0.5B-Instruct with the VideoLLM's merger
cut to its width and frozen, and from InternVL2_5-1B.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from flexselect.families import FAMILIES, family_of
from flexselect.families.base import VideoFamily, VideoLM
from flexselect.loading.weights import LoadOptions, load_weights, read_config
from flexselect.selectors.lite_selector import LiteSelector, LiteSelectorConfig, selector_config

TEACHER = "teacher"
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
)


def begin(
    family: VideoFamily, selector: str | None, start: str | None, sizes: dict[str, Any] | None, reduction: str
) -> LiteSelector:
    """A selector to train, in float32: one to go on from, or a new one whose weights `starting_weights` brings.

    Args:
        family: of the VideoLLM that it ranks for.
        selector: folder or hub id of one to go on from, whatever `start` and `sizes` say; None: a new one.
        start: see `starting_config`.
        sizes: see `starting_config`.
        reduction: it is trained with.

    Raises:
        ValueError: for none of the three.
    """
    if selector is None and start is None and sizes is None:
        raise ValueError("give --model.selector to go on from, or --model.start or --model.sizes of a new selector")
    if selector is None:
        made = LiteSelector(starting_config(family, start, sizes or {}, reduction))
        made.name_or_path = start or ""  # where its tokenizer is, if it has its own
        return made
    given: LiteSelector = LiteSelector.from_pretrained(selector, dtype="float32")
    given.config.update({"alignment": "exact", "reduction": reduction})  # as it is trained from here
    return given


def starting_config(
    family: VideoFamily, start: str | None, sizes: dict[str, Any], reduction: str
) -> LiteSelectorConfig:
    """Configuration of a new selector.

    Args:
        family: of the VideoLLM that it ranks for.
        start: None or "teacher": sizes are the VideoLLM's; else folder or hub id of a small model: of the same family,
            or a Qwen2 without a tower.
        sizes: of the language model, over those.
        reduction: see `LiteSelectorConfig`.

    Raises:
        ValueError: for a small model of another family.
    """
    if start is None or start == TEACHER:
        return selector_config(family, sizes, reduction)
    small = _language_model(start)
    if small is not None:
        return selector_config(family, {name: small[name] for name in SIZES} | sizes, reduction)
    other, inputs = family_of(start), family.selector_inputs
    if type(other) is not type(family) or inputs is None:
        raise ValueError(f"a selector for {family.name} cannot start from {start}, which is {other.name}")
    own = dict(inputs)
    if "brackets" in own:
        own["brackets"] = (other.selector_inputs or {})["brackets"]
    text = other.model_config.get_text_config().to_dict() | sizes
    return LiteSelectorConfig(text, reduction=reduction, own_tokenizer=own != inputs, **own)


def starting_weights(selector: LiteSelector, start: str, teacher: VideoLM) -> None:
    """Copy the weights in, cut where the selector is smaller.

    Args:
        selector: made of `starting_config`.
        start: as there.
        teacher: the VideoLLM, with as many of its first layers as the selector has where it starts from them.

    Raises:
        ValueError: naming a weight that the selector has and its start has not, or that is too small there.
    """
    lm, options = teacher, LoadOptions(torch.float32)
    decoder: nn.Module = teacher.decoder
    if start != TEACHER:
        small = _language_model(start)
        if small is not None:
            decoder = load_weights(Qwen2ForCausalLM, start, Qwen2Config.from_dict(small), options).model
        else:
            lm = family_of(start).load(options)
            decoder = lm.decoder
    _copy(selector.decoder, decoder.state_dict(), start)
    _copy(selector.projector, lm.projector_weights(), start)


def _language_model(start: str) -> dict[str, Any] | None:
    """The config.json of a Qwen2 without a tower; None of anything else."""
    config = read_config(start)
    alone = config.get("model_type") == "qwen2" and not any(known.claims(config) for known in FAMILIES)
    return config if alone else None


def _copy(module: nn.Module, source: dict[str, Tensor], start: str) -> None:
    """Every weight of a module, from those of one at least as large: the first rows, columns, heads and layers."""
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if ".lora_" in name:
                continue
            found = source.get(name.replace(".base_layer.", "."))  # adapters stand beside it
            if found is None or found.ndim != weight.ndim or any(a < b for a, b in zip(found.shape, weight.shape)):
                shape = "missing" if found is None else list(found.shape)
                raise ValueError(f"cannot start from {start}: {name} is {shape} there, {list(weight.shape)} needed")
            weight.copy_(found[tuple(slice(size) for size in weight.shape)])
