"""The layout of InternVL2.5, 3 and 3.5 (InternVLChatModel): map keys and configuration to transformers' InternVL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Chunk, ConversionOps, WeightConverter, WeightRenaming
from transformers.models.internvl import InternVLVisionConfig


class InternVLChatForConditionalGeneration(InternVLForConditionalGeneration):
    """A subclass of transformers' InternVL, so that the key conversions apply to no other model."""


def split_heads(packed: Tensor, text: PreTrainedConfig) -> list[Tensor]:
    """Split InternLM2's `wqkv`, [(g + 2) * kv_heads * d, ...], into query, key and value.

    Per key head it holds g query heads, a key and a value, d rows each.
    """
    groups = text.num_attention_heads // text.num_key_value_heads
    heads = packed.unflatten(0, (text.num_key_value_heads, groups + 2, -1))  # [kv_heads, g + 2, d, ...]
    parts = heads[:, :groups], heads[:, groups : groups + 1], heads[:, groups + 1 :]
    return [part.flatten(0, 2).contiguous() for part in parts]


class SplitPackedHeads(ConversionOps):
    """Conversion of InternLM2's `wqkv`, see `split_heads`."""

    @torch.no_grad()
    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        """Split one packed tensor into query, key and value."""
        (packed,) = input_dict.values()
        packed = packed[0] if isinstance(packed, list) else packed
        return dict(zip(target_patterns, split_heads(packed, kwargs["config"].get_text_config())))


RENAMINGS = (
    (r"^vision_model\.", "model.vision_tower."),
    (r"encoder\.layers\.", "encoder.layer."),
    (r"embeddings\.class_embedding", "embeddings.cls_token"),
    (r"embeddings\.position_embedding$", "embeddings.position_embeddings"),
    (r"embeddings\.patch_embedding\.", "embeddings.patch_embeddings.projection."),
    (r"\.ls1$", ".lambda_1"),
    (r"\.ls2$", ".lambda_2"),
    (r"\.attn\.proj\.", ".attention.projection_layer."),
    (r"\.attn\.q_norm\.", ".attention.q_norm."),
    (r"\.attn\.k_norm\.", ".attention.k_norm."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"^mlp1\.0\.", "model.multi_modal_projector.layer_norm."),
    (r"^mlp1\.1\.", "model.multi_modal_projector.linear_1."),
    (r"^mlp1\.3\.", "model.multi_modal_projector.linear_2."),
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^language_model\.output\.", "lm_head."),
    (r"^language_model\.model\.", "model.language_model."),
    (r"\.tok_embeddings\.", ".embed_tokens."),
    (r"\.attention\.wo\.", ".self_attn.o_proj."),
    (r"\.feed_forward\.w1\.", ".mlp.gate_proj."),
    (r"\.feed_forward\.w2\.", ".mlp.down_proj."),
    (r"\.feed_forward\.w3\.", ".mlp.up_proj."),
    (r"\.attention_norm\.", ".input_layernorm."),
    (r"\.ffn_norm\.", ".post_attention_layernorm."),
)


def _qkv_converters(packed: str, attention: str, operation: ConversionOps) -> list[WeightConverter]:
    """Make the converters of a packed weight and bias to those of queries, keys and values."""
    targets = [[f"{attention}.{part}_proj.{kind}" for part in "qkv"] for kind in ("weight", "bias")]
    sources = [f"{packed}.{kind}" for kind in ("weight", "bias")]
    return [WeightConverter(s, t, operations=[operation]) for s, t in zip(sources, targets)]


register_checkpoint_conversion_mapping(
    "InternVLChatForConditionalGeneration",
    [
        *(WeightRenaming(source_patterns=old, target_patterns=new) for old, new in RENAMINGS),
        *_qkv_converters("attn.qkv", "attention", Chunk(dim=0)),
        *_qkv_converters("attention.wqkv", "self_attn", SplitPackedHeads()),
    ],
    overwrite=True,  # needed if this module is imported twice
)


def is_internvl_chat(config: dict[str, Any]) -> bool:
    """Return whether a config.json is in this layout."""
    return config.get("model_type") == "internvl_chat"


def internvl_config(path: str, config: dict[str, Any]) -> InternVLConfig:
    """Convert the configuration for transformers' class.

    Args:
        path: the checkpoint, for errors.
        config: its config.json.

    Raises:
        ValueError: if the language model or pixel shuffle was not released with InternVL2.5, 3 or 3.5.
    """
    if config.get("ps_version", "v2") != "v2":
        raise ValueError(f"{path}: ps_version is {config['ps_version']!r}; only 'v2' is supported")
    vision, text = config["vision_config"], config["llm_config"]
    kind = text.get("model_type") or text["architectures"][0]
    if kind not in PLACEHOLDERS:
        known = ", ".join(map(repr, PLACEHOLDERS))
        raise ValueError(f"{path}: the language model is {kind!r}; only {known} are supported")
    vision_config = InternVLVisionConfig(
        attention_bias=vision["qkv_bias"],
        use_qk_norm=vision["qk_normalization"],
        use_mean_pooling=True,
        image_size=[vision["image_size"]] * 2,
        patch_size=[vision["patch_size"]] * 2,
        **{name: vision[name] for name in VISION_NUMBERS},
    )
    tokens = int((vision["image_size"] // vision["patch_size"] * config["downsample_ratio"]) ** 2)
    return InternVLConfig(
        vision_config=vision_config,
        text_config=TEXT_CONFIGS[kind](text),
        image_token_id=PLACEHOLDERS[kind],
        image_seq_length=tokens,
        downsample_ratio=config["downsample_ratio"],
        vision_feature_layer=config.get("select_layer", -1),
        tie_word_embeddings=text.get("tie_word_embeddings", False),
    )


VISION_NUMBERS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
    "norm_type",
    "num_channels",
)


def _text_fields(text: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a language model's configuration that transformers' class takes."""
    foreign = ("architectures", "model_type", "torch_dtype", "auto_map", "attn_implementation", "_name_or_path")
    return {name: value for name, value in text.items() if name not in foreign}


def _internlm2(text: dict[str, Any]) -> LlamaConfig:
    """Convert InternLM2's configuration to Llama's; "dynamic" RoPE grows beyond `max_position_embeddings`."""
    numbers = _text_fields(text)
    scaling = numbers.pop("rope_scaling", None) or {}
    rope = {"rope_type": scaling.get("type", "default"), "rope_theta": numbers.pop("rope_theta")}
    if "factor" in scaling:
        rope["factor"] = scaling["factor"]
    bias = numbers.pop("bias", False)
    return LlamaConfig(**numbers, attention_bias=bias, mlp_bias=False, rope_parameters=rope)


TEXT_CONFIGS: dict[str, Callable[[dict[str, Any]], PreTrainedConfig]] = {  # of InternVL2.5; InternVL2.5 and 3; 3.5
    "internlm2": _internlm2,
    "qwen2": lambda text: Qwen2Config(**_text_fields(text)),
    "qwen3": lambda text: Qwen3Config(**_text_fields(text)),
}
PLACEHOLDERS = {"internlm2": 92546, "qwen2": 151667, "qwen3": 151671}  # <IMG_CONTEXT>; before it <img> and </img>
