"""Names of weights: from any layout of a checkpoint to those of the language model alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from torch import Tensor
from transformers import PreTrainedConfig

from flexselect.families.base import VideoFamily
from flexselect.loading.internvl_chat import RENAMINGS, split_heads

NAMES = (*RENAMINGS, (r"^model\.language_model\.", "model."), (r"^language_model\.(?=model\.|lm_head\.)", ""))
ANSWERED = ("qwen2", "qwen2_5_vl_text", "llama", "qwen3", "qwen3_vl_text")  # language models, by `model_type`
LANGUAGE = re.compile(r"^(model\.(layers|embed_tokens|norm)\.|lm_head\.)")


def check_family(family: VideoFamily) -> None:
    """Refuse a family whose language model cannot be run here.

    Raises:
        ValueError: naming the family and its language model.
    """
    kind = family.model_config.get_text_config().model_type
    if kind not in ANSWERED:
        raise ValueError(f"engine=vllm cannot answer for {family.name} yet: its language model is {kind!r}")


def language_weights(weights: Iterable[tuple[str, Tensor]], text: PreTrainedConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of a checkpoint's language model under its own names; those of the tower are left out.

    Args:
        weights: names and weights in the layout of any family.
        text: the language model's configuration.
    """
    for name, weight in weights:
        for old, new in NAMES:
            name = re.sub(old, new, name)
        if not LANGUAGE.match(name):
            continue
        if ".attention.wqkv." in name:
            names = [name.replace("attention.wqkv", f"self_attn.{part}_proj") for part in "qkv"]
            yield from zip(names, split_heads(weight, text))
        else:
            yield name, weight
