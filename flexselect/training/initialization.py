"""Initialise a new selector from a small model of the family, or from the VideoLLM's first layers.

The released selectors started from llava-onevision-qwen2-0.5b-ov, from Qwen2-0.5B-Instruct with the VideoLLM's merger
(frozen, and cut to the width of Qwen2-0.5B), and from InternVL2_5-1B.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from flexselect.families import FAMILIES, family_of
from flexselect.families.base import VideoFamily, VideoLM
from flexselect.loading.checkpoint_files import read_config
from flexselect.loading.weights import LoadOptions, load_weights
from flexselect.selectors.lite_selector import LiteSelector, LiteSelectorConfig, selector_config

TEACHER = "teacher"
LANGUAGE_MODELS: dict[str, tuple[Any, Any]] = {  # without a tower, by `model_type`
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "qwen3_5_text": (Qwen3_5TextConfig, Qwen3_5ForCausalLM),
}
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


def new_selector(
    family: VideoFamily, selector: str | None, start: str | None, sizes: dict[str, Any] | None, reduction: str
) -> LiteSelector:
    """Make a selector to train, in float32: load a trained one, or make one for `load_initial_weights` to fill.

    Args:
        family: the family of the VideoLLM.
        selector: folder or hub id of a selector to continue training; `start` and `sizes` are ignored. None: a new one.
        start: see `initial_config`.
        sizes: see `initial_config`.
        reduction: the reduction in training.

    Raises:
        ValueError: if all of `selector`, `start` and `sizes` are None.
    """
    if selector is None and start is None and sizes is None:
        raise ValueError(
            "set --model.selector to continue its training, or --model.start or --model.sizes for a new one"
        )
    if selector is None:
        new = LiteSelector(initial_config(family, start, sizes or {}, reduction))
        new.name_or_path = start or ""  # the folder of the separate tokenizer, if there is one
        return new
    trained: LiteSelector = LiteSelector.from_pretrained(selector, dtype="float32")
    trained.config.update({"alignment": "exact", "reduction": reduction})  # the settings of the coming training
    return trained


def initial_config(family: VideoFamily, start: str | None, sizes: dict[str, Any], reduction: str) -> LiteSelectorConfig:
    """Make the configuration of a new selector.

    Args:
        family: the family of the VideoLLM.
        start: folder or hub id of a small model: of the same family, or a Qwen2, Qwen3 or Qwen3.5 without a tower.
            None or "teacher": the VideoLLM's sizes.
        sizes: sizes of the language model that differ from `start`.
        reduction: see `LiteSelectorConfig`.

    Raises:
        ValueError: if the small model is of another family.
    """
    if start is None or start == TEACHER:
        return selector_config(family, sizes, reduction)
    small = _language_model(start)
    if small is not None and small["model_type"] == family.model_config.get_text_config().model_type:
        return LiteSelectorConfig({**small, **sizes}, reduction=reduction, **(family.selector_inputs or {}))
    if small is not None:
        head = {"head_dim": small["head_dim"]} if "head_dim" in small else {}
        return selector_config(family, {name: small[name] for name in SIZES} | head | sizes, reduction)
    other, inputs = family_of(start), family.selector_inputs
    if type(other) is not type(family) or inputs is None:
        raise ValueError(f"a selector for {family.name} cannot start from {start}, which is {other.name}")
    fields = dict(inputs)
    if "brackets" in fields:
        fields["brackets"] = (other.selector_inputs or {})["brackets"]
    text = other.model_config.get_text_config().to_dict() | sizes
    return LiteSelectorConfig(text, reduction=reduction, own_tokenizer=fields != inputs, **fields)


def load_initial_weights(selector: LiteSelector, start: str, teacher: VideoLM) -> None:
    """Copy initial weights into a new selector; cut tensors that are larger than the selector's.

    Args:
        selector: made from `initial_config`.
        start: see `initial_config`.
        teacher: the VideoLLM; it needs as many layers as the selector if `start` is "teacher".

    Raises:
        ValueError: naming a weight that is missing or too small in the initial model.
    """
    lm, options = teacher, LoadOptions(torch.float32)
    decoder: nn.Module = teacher.decoder
    if start != TEACHER:
        small = _language_model(start)
        if small is not None:
            config, kind = LANGUAGE_MODELS[small["model_type"]]
            decoder = load_weights(kind, start, config.from_dict(small), options).model
        else:
            other = family_of(start).load(options)
            decoder = other.decoder
            if _tower_width(other) in (None, _tower_width(teacher)):
                lm = other
    _copy(selector.decoder, decoder.state_dict(), start)
    _copy(selector.projector, lm.projector_weights(), start)


def _tower_width(lm: VideoLM) -> int | None:
    """Return the width of what a projector takes, smaller in the small models of Qwen3.5; None: not known."""
    return (lm.family.selector_inputs or {}).get("vision_size")


def _language_model(start: str) -> dict[str, Any] | None:
    """Return the config.json of a language model without a tower; None for any other model."""
    config = read_config(start)
    known = config.get("model_type") in LANGUAGE_MODELS and not any(family.claims(config) for family in FAMILIES)
    return config if known else None


def _copy(module: nn.Module, source: dict[str, Tensor], start: str) -> None:
    """Copy every weight of a module from a module at least as large: the first rows, columns, heads and layers."""
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if ".lora_" in name:
                continue
            value = source.get(name.replace(".base_layer.", "."))  # the name that LoRA gives to the original layer
            if value is None or value.ndim != weight.ndim or any(a < b for a, b in zip(value.shape, weight.shape)):
                shape = "missing" if value is None else list(value.shape)
                raise ValueError(f"cannot start from {start}: {name} is {shape} there, {list(weight.shape)} needed")
            weight.copy_(value[tuple(slice(size) for size in weight.shape)])
