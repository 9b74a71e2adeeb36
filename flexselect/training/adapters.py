"""Choose which weights of a selector are trained: freeze parts, or add LoRA adapters through peft."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from flexselect.attention.layers import is_hybrid
from flexselect.selectors.lite_selector import LiteSelector

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RECURRENT_LINEARS = ("in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj")  # of a hybrid


def freeze(selector: LiteSelector, parts: Sequence[str]) -> None:
    """Freeze parts of a selector, and the weights that do not affect scores.

    In the last layer, only norm, queries and keys affect scores.

    Args:
        selector: the selector, changed in place.
        parts: names such as "projector" or "decoder.embed_tokens".

    Raises:
        ValueError: naming a part that does not exist.
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
    """Freeze the language model and add adapters to its linear layers, in place.

    Args:
        selector: the selector.
        options: arguments of `peft.LoraConfig`, such as `r` and `lora_alpha`; `target_modules` are all linear layers by
            default.

    Raises:
        ValueError: naming an option that does not exist.
    """
    from peft import LoraConfig, inject_adapter_in_model  # here, because the import takes a second

    known = [field.name for field in fields(LoraConfig)]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"lora: peft's LoraConfig has no {', '.join(unknown)}; it has {', '.join(known)}")
    selector.decoder.requires_grad_(False)
    linears = [*LINEARS, *(RECURRENT_LINEARS if is_hybrid(selector.decoder.config) else ())]
    inject_adapter_in_model(LoraConfig(**{"target_modules": linears, **options}), selector.decoder)


def merge_lora(selector: LiteSelector) -> None:
    """Merge the adapters into the weights, and remove them."""
    from peft.tuners.lora import LoraLayer

    for name, layer in list(selector.decoder.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge(safe_merge=True)
            selector.decoder.set_submodule(name, layer.get_base_layer())
