"""Read the three released selectors: each is a Qwen2-0.5B with a projector."""

from __future__ import annotations

from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig, Qwen2Config
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.utils import cached_file

from flexselect.attention.probe import resolve_reduction
from flexselect.loading.internlm2_tokenizer import special_tokens

KINDS = {  # by architecture name
    "Qwen2ModelForSelector": "llava",
    "Qwen2_5_Token_Selector_External": "qwen2_5_vl",
    "Qwen2ForSelector_EXTERNAL": "internvl",
    "InternLM2ForSelector_Qwen": "internvl",
}
INPUTS = {  # by projector: the weight whose last dimension is the width of the vision features
    "llava": "mm_projector.0.weight",
    "qwen2_5_vl": "merger_token_selector.ln_q.weight",
    "internvl": "mlp1.0.weight",
}
RENAMINGS = (
    (r"^(?:language_model\.model\.)?(layers|embed_tokens|norm)\.", r"decoder.\1."),
    (r"^image_newline$", "projector.newline"),
    (r"^mm_projector\.0\.", "projector.linear_1."),
    (r"^mm_projector\.2\.", "projector.linear_2."),
    (r"^merger_token_selector\.", "projector.merger."),
    (r"^mlp1\.0\.", "projector.norm."),
    (r"^mlp1\.1\.", "projector.linear_1."),
    (r"^mlp1\.3\.", "projector.linear_2."),
)
register_checkpoint_conversion_mapping(
    "ReleasedSelector",  # the class that loads them, see `flexselect.selectors.lite_selector`
    [WeightRenaming(source_patterns=old, target_patterns=new) for old, new in RENAMINGS],
    overwrite=True,  # needed if this module is imported twice
)
RELEASED_DELIMITERS = {"<img>": 151665, "</img>": 151666}  # ids in the released InternVL selector without a tokenizer


def projector_of(config: dict[str, Any]) -> str | None:
    """Return the projector of a released selector, from its config.json; None if it is not a released selector.

    The released config.json files could not be seen, so this function checks fields as well as names.
    """
    for architecture in config.get("architectures") or []:
        if architecture in KINDS:
            return KINDS[architecture]
    if config.get("model_type") == "qwen2" and "downsample_ratio" in config:
        return "internvl"
    return "qwen2_5_vl" if config.get("model_type") == "qwen2" and "drop_func_name" in config else None


def released_fields(path: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of `LiteSelectorConfig` for a released selector.

    Args:
        path: the checkpoint; the width of the vision features is read from its weights.
        config: its config.json, flat or with a nested `llm_config` (InternVL).

    Raises:
        ValueError: if it is not a released selector, or the weights cannot be read.
    """
    kind = projector_of(config)
    if kind is None:
        raise ValueError(f"{path} is not a released selector: its config.json says {config.get('architectures')}")
    fields = {**config, **config.get("llm_config", {})}
    foreign = ("architectures", "model_type", "torch_dtype", "auto_map", "vision_config", "llm_config")
    text = {name: value for name, value in fields.items() if name not in foreign}
    special = special_tokens(path) if kind == "internvl" else {}
    return dict(
        text_config=_text_config(kind, text),
        projector=kind,
        vision_size=_last_dimension(path, INPUTS[kind]),
        reduction=resolve_reduction(config.get("drop_func_name", "token_selection")),
        alignment="released" if kind == "internvl" else "exact",
        brackets=[special.get(name, number) for name, number in RELEASED_DELIMITERS.items()]
        if kind == "internvl"
        else None,
        own_tokenizer=kind == "internvl",
    )


def _text_config(kind: str, text: dict[str, Any]) -> PreTrainedConfig:
    """Return the configuration of the language model; Qwen2.5-VL's selector was trained with YaRN and M-RoPE."""
    return Qwen2_5_VLTextConfig(**text) if kind == "qwen2_5_vl" else Qwen2Config(**text)


def _last_dimension(path: str, name: str) -> int:
    try:
        with safe_open(str(cached_file(path, "model.safetensors")), "pt") as weights:
            return weights.get_slice(name).get_shape()[-1]
    except (OSError, SafetensorError) as error:
        raise ValueError(f"the weights of the selector at {path} cannot be read, or lack {name}: {error}") from error
