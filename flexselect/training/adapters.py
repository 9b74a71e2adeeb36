"""What of a selector is trained: all that gets a gradient, less what is frozen, or LoRA adapters through peft."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from flexselect.selectors.lite_selector import LiteSelector

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def freeze(selector: LiteSelector, parts: Sequence[str]) -> None:
    """Freeze some parts, and what the score does not come from: of the last layer only norm, queries and keys count.

    Args:
        selector: any.
        parts: "projector" or "decoder.embed_tokens" for two.

    Raises:
        ValueError: naming a part that there is not.
    """
    known = dict(selector.named_modules())
    for name in parts:
        if name not in known:
            top = ", ".join(part for part in known if part and part.count(".") < 2)
            raise ValueError(f"freeze: a selector has no part {name!r}; its parts are {top}")
    last = selector.decoder.layers[-1]
    unused = (last.mlp, last.post_attention_layernorm, last.self_attn.v_proj, last.self_attn.o_proj)
    for module in (*unused, selector.decoder.norm, *(known[name] for name in parts)):
        module.requires_grad_(False)


def add_lora(selector: LiteSelector, options: dict[str, Any]) -> None:
    """Freeze the language model and put adapters on its linear layers, in place.

    Args:
        selector: any.
        options: of `peft.LoraConfig`, `r` and `lora_alpha` for two; `target_modules` are all linear layers unless said.

    Raises:
        ValueError: naming an option that there is not.
    """
    from peft import LoraConfig, inject_adapter_in_model  # importing it takes a second that most runs need not spend

    known = [field.name for field in fields(LoraConfig)]
    foreign = [name for name in options if name not in known]
    if foreign:
        raise ValueError(f"lora: peft's LoraConfig has no {', '.join(foreign)}; it has {', '.join(known)}")
    selector.decoder.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(**{"target_modules": list(LINEARS), **options}), selector.decoder)


def merge_lora(selector: LiteSelector) -> None:
    """Add the adapters to the weights that they stand beside, and take them away."""
    from peft.tuners.lora import LoraLayer

    for name, layer in list(selector.decoder.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge(safe_merge=True)
            selector.decoder.set_submodule(name, layer.get_base_layer())
