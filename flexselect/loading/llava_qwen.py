"""LLaVA-Video's layout (LlavaQwenForCausalLM): map its keys and configuration to transformers' LLaVA-OneVision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, Qwen2Config, SiglipVisionConfig
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.utils import cached_file


class LlavaVideoForConditionalGeneration(LlavaOnevisionForConditionalGeneration):
    """A subclass of transformers' LLaVA-OneVision, so that the key conversions apply to no other model."""


TOWER = "google/siglip-so400m-patch14-384"  # the tower of every released LLaVA-Video; config.json does not describe it
TOWER_CONFIG = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
NEWLINES = ("grid", "one_token")  # LLaVA-Video and LLaVA-OneVision; the second if config.json names none
RENAMINGS = (
    (r"^model\.vision_tower\.vision_tower\.vision_model\.", "model.vision_tower."),
    (r"^model\.mm_projector\.0\.", "model.multi_modal_projector.linear_1."),
    (r"^model\.mm_projector\.2\.", "model.multi_modal_projector.linear_2."),
    (r"^model\.(layers|embed_tokens|norm)\.", r"model.language_model.\1."),
)
register_checkpoint_conversion_mapping(
    "LlavaVideoForConditionalGeneration",
    [WeightRenaming(source_patterns=old, target_patterns=new) for old, new in RENAMINGS],
    overwrite=True,  # needed if this module is imported twice
)


def is_llava_qwen(config: dict[str, Any]) -> bool:
    """Return whether a config.json is in this layout; released files have model_type "llava" or "llava_qwen"."""
    return "LlavaQwenForCausalLM" in (config.get("architectures") or [])


def llava_config(path: str, config: dict[str, Any]) -> LlavaOnevisionConfig:
    """Convert the configuration for transformers' class.

    Args:
        path: the checkpoint; if it has `vision_tower_config.json`, that file describes the tower.
        config: its config.json.

    Raises:
        ValueError: if the projector or newline layout was never released with these models.
    """
    for name, known in (("mm_projector_type", ("mlp2x_gelu",)), ("mm_newline_position", NEWLINES)):
        if config.get(name, known[0]) not in known:
            raise ValueError(f"{path}: {name} is {config[name]!r}; only {', '.join(known)} is supported")
    tower = _tower_config(path, config)
    tower["num_hidden_layers"] -= 1  # the file lacks the last layer: features are taken before it
    for foreign in ("architectures", "model_type", "torch_dtype", "transformers_version"):
        tower.pop(foreign, None)
    text = {key: value for key, value in config.items() if key not in ("architectures", "model_type", "torch_dtype")}
    converted = LlavaOnevisionConfig(
        text_config=Qwen2Config(**text),
        vision_config=SiglipVisionConfig(**tower, vision_use_head=False),
        image_token_index=config.get("image_token_index", 151646),
        tie_word_embeddings=config.get("tie_word_embeddings", False),
        **{name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in config},
    )
    converted.mm_newline_position = config.get("mm_newline_position", "one_token")  # so that saved copies have it
    return converted


def _tower_config(path: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return the tower's configuration: from the checkpoint's folder, else the released one."""
    file = cached_file(path, "vision_tower_config.json", _raise_exceptions_for_missing_entries=False)
    if file is not None:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    if config.get("mm_vision_tower") != TOWER:
        raise ValueError(
            f"{path}: the vision tower is {config.get('mm_vision_tower')!r}, whose sizes are not known here; "
            "put its configuration into the folder of the weights as vision_tower_config.json"
        )
    return dict(TOWER_CONFIG)
