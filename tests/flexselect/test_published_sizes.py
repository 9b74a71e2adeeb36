"""The published models through the real loader: every size builds, every key finds its place, nothing is passed over.

The configurations are written out here from the published model cards' numbers. The weights are sparse files of zeros
(no disk, no memory) with the names and shapes that tests/tiny.py gives them, whose rules are written the other way
round from the loader's: so this proves that the two agree at full size, not that the hub's files are named so.
"""

import json
import struct

import pytest
import torch
from transformers import (
    AutoConfig,
    InternVLForConditionalGeneration,
    LlavaOnevisionForConditionalGeneration,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
    core_model_loading,
)

from flexselect.families import family_of
from flexselect.loading.internvl_chat import internvl_config
from flexselect.loading.llava_qwen import llava_config
from flexselect.loading.weights import LoadOptions
from tests import tiny

QWEN2 = {
    7: {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
    | {"num_key_value_heads": 4, "vocab_size": 152064},
    72: {"hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80, "num_attention_heads": 64}
    | {"num_key_value_heads": 8, "vocab_size": 152064},
    0.5: {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
    | {"num_key_value_heads": 2, "vocab_size": 151674},
}
QWEN2_TEXT = {"model_type": "qwen2", "rope_theta": 1e6, "max_position_embeddings": 32768, "tie_word_embeddings": False}
INTERNLM2 = {
    "model_type": "internlm2",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 92553,
    "bias": False,
    "rope_theta": 1e6,
    "rope_scaling": {"type": "dynamic", "factor": 2.0},
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
}
INTERNVIT = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "norm_type": "layer_norm",
    "num_channels": 3,
    "qkv_bias": True,
    "qk_normalization": False,
    "image_size": 448,
    "patch_size": 14,
}
INTERNVIT_6B = INTERNVIT | {
    "hidden_size": 3200,
    "intermediate_size": 12800,
    "num_hidden_layers": 45,
    "num_attention_heads": 25,
    "norm_type": "rms_norm",
    "qkv_bias": False,
    "qk_normalization": True,
}


def qwen(billions):
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420 if billions == 7 else 3456, "num_heads": 16}
    vision |= {"out_hidden_size": QWEN2[billions]["hidden_size"], "fullatt_block_indexes": [7, 15, 23, 31]}
    rope = {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "rope_theta": 1e6}
    config = {"architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl"}
    return config | {**QWEN2[billions], **rope, "vision_config": vision, "tie_word_embeddings": False}


def llava(billions):
    config = {"architectures": ["LlavaQwenForCausalLM"], "mm_vision_tower": "google/siglip-so400m-patch14-384"}
    return config | {
        "model_type": "llava",
        "mm_newline_position": "grid",
        "tie_word_embeddings": False,
        "rope_theta": 1e6,
        **QWEN2[billions],
    }


def internvl(text, vision):
    config = {"architectures": ["InternVLChatModel"], "model_type": "internvl_chat", "downsample_ratio": 0.5}
    return config | {"ps_version": "v2", "llm_config": text, "vision_config": vision}


QWEN3_VL = {
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "model_type": "qwen3_vl",
    "tie_word_embeddings": False,
    "text_config": {
        "model_type": "qwen3_vl_text",
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
        "rope_theta": 5e6,
    },
    "vision_config": {
        "depth": 27,
        "hidden_size": 1152,
        "out_hidden_size": 4096,
        "deepstack_visual_indexes": [8, 16, 24],
    },
}
MODELS = {  # name: (config.json, published parameters in billions, reference layer)
    "Qwen2.5-VL-7B": (qwen(7), 8.29, 20),
    "Qwen2.5-VL-72B": (qwen(72), 73.4, 60),
    "LLaVA-Video-7B": (llava(7), 8.03, 19),
    "LLaVA-Video-72B": (llava(72), 73.2, 60),
    "Qwen3-VL-8B": (QWEN3_VL, 8.77, 26),  # no layer published: as deep as Qwen2.5-VL's
    "InternVL2.5-1B": (internvl(QWEN2[0.5] | QWEN2_TEXT, INTERNVIT), 0.94, 11),  # no layer published: same depth as 8B
    "InternVL2.5-8B": (internvl(INTERNLM2, INTERNVIT), 8.08, 15),
    "InternVL2.5-78B": (internvl(QWEN2[72] | QWEN2_TEXT | {"vocab_size": 151674}, INTERNVIT_6B), 78.4, 38),
}


def as_released(folder, config):
    """Sizes by the authors' key names, from transformers' own class on the meta device."""
    with torch.device("meta"):
        if config["model_type"] == "internvl_chat":
            model = InternVLForConditionalGeneration._from_config(internvl_config("", config))
            kv_heads, kind = config["llm_config"]["num_key_value_heads"], config["llm_config"]["model_type"]
            return tiny.internvl_names(model.state_dict(), kv_heads, kind == "internlm2")
        if config["model_type"] == "llava":
            model = LlavaOnevisionForConditionalGeneration._from_config(llava_config(str(folder), config))
            return tiny.llava_names(model.state_dict())
        if config["model_type"] == "qwen3_vl":
            return Qwen3VLForConditionalGeneration._from_config(AutoConfig.from_pretrained(folder)).state_dict()
        model = Qwen2_5_VLForConditionalGeneration._from_config(AutoConfig.from_pretrained(folder))
        return tiny.qwen_names(model.state_dict())


SHARD = 4 * 10**9  # bytes


def write_sparse(folder, weights):
    """Shards of bfloat16 zeros that take no room, with the files that lie around them on the hub."""
    shards, end = [{}], 0
    for name, weight in weights.items():
        if end and end + 2 * weight.numel() > SHARD:
            shards.append({})
            end = 0
        start, end = end, end + 2 * weight.numel()
        shards[-1][name] = {"dtype": "BF16", "shape": list(weight.shape), "data_offsets": [start, end]}
    places = {}
    for i, shard in enumerate(shards):
        places |= dict.fromkeys(shard, f"model-{i + 1:05}-of-{len(shards):05}.safetensors")
        text = json.dumps({"__metadata__": {"format": "pt"}, **shard}).encode()
        text += b" " * (-len(text) % 8)
        with (folder / places[next(iter(shard))]).open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + max(entry["data_offsets"][1] for entry in shard.values()))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / "generation_config.json").write_text("{}")


@pytest.fixture(autouse=True)
def shapes_alone(monkeypatch):
    """Weights become tensors of their shape: reading 600 GB of zeros takes a minute and shows nothing."""

    def shape_of(tensor, device=None, dtype=None):
        return torch.empty(tensor.get_shape(), device=device, dtype=dtype or torch.bfloat16)

    monkeypatch.setattr(core_model_loading, "_materialize_copy", shape_of)


@pytest.fixture(params=MODELS)
def published(request, tmp_path):
    config, billions, layer = MODELS[request.param]
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = as_released(tmp_path, config)
    write_sparse(tmp_path, weights)
    return tmp_path, weights, billions, layer


def test_every_key_of_a_published_model_finds_its_place(published):
    """Missing, unexpected or misshapen keys raise, so every tensor is used and every parameter filled."""
    folder, weights, billions, layer = published
    family = family_of(str(folder))
    lm = family.load(LoadOptions(device_map={"": "meta"}))
    parameters = sum(weight.numel() for weight in lm.model.parameters())
    assert parameters / 1e9 == pytest.approx(billions, abs=0.06)
    assert parameters == sum(weight.numel() for weight in weights.values())
    assert family.default_reference_layer == layer


def test_a_key_too_many_or_too_few_is_refused_at_full_size(tmp_path):
    config, *_ = MODELS["InternVL2.5-8B"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = as_released(tmp_path, config)
    weights["vision_model.encoder.layers.23.extra"] = weights.pop("vision_model.encoder.layers.23.ls1")
    write_sparse(tmp_path, weights)
    with pytest.raises(ValueError, match=r"do not fit.*layer\.23\.lambda_1.*layer\.23\.extra"):
        family_of(str(tmp_path)).load(LoadOptions(device_map={"": "meta"}))
