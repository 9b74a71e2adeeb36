"""The real configurations on the meta device: every size builds, has the published parameters, and every key a place.

The configurations are written out here from the published model cards' numbers; the list of key names is made from the
mapping itself, so it proves that the mapping is complete, not that the hub's files are named so.
"""

import json

import pytest
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.core_model_loading import WeightRenaming

from flexselect.checkpoints.internvl_chat import InternVLChatForConditionalGeneration, internvl_config
from flexselect.checkpoints.llava_qwen import RENAMINGS, LlavaVideoForConditionalGeneration, llava_config

QWEN2 = {
    7: {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
    | {"num_key_value_heads": 4, "vocab_size": 152064},
    72: {"hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80, "num_attention_heads": 64}
    | {"num_key_value_heads": 8, "vocab_size": 152064},
}
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


def llava(billions, folder):
    config = {"architectures": ["LlavaQwenForCausalLM"], "mm_vision_tower": "google/siglip-so400m-patch14-384"}
    config |= {"tie_word_embeddings": False, "rope_theta": 1e6, **QWEN2[billions]}
    (folder / "config.json").write_text(json.dumps(config))
    return LlavaVideoForConditionalGeneration._from_config(llava_config(str(folder), config))


def qwen(billions):
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420 if billions == 7 else 3456, "num_heads": 16}
    vision |= {"out_hidden_size": QWEN2[billions]["hidden_size"], "fullatt_block_indexes": [7, 15, 23, 31]}
    text = {"rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6}}
    config = Qwen2_5_VLConfig(text_config={**QWEN2[billions], **text}, vision_config=vision, tie_word_embeddings=False)
    return Qwen2_5_VLForConditionalGeneration._from_config(config)


def internvl():
    config = {"llm_config": INTERNLM2, "vision_config": INTERNVIT, "downsample_ratio": 0.5}
    return InternVLChatForConditionalGeneration._from_config(internvl_config("here", config))


@pytest.mark.parametrize(
    ("name", "billions"),
    [("qwen7", 8.29), ("qwen72", 73.4), ("llava7", 8.03), ("llava72", 73.2), ("internvl8", 8.08)],
)
def test_parameters_of_the_published_sizes(tmp_path, name, billions):
    with torch.device("meta"):
        size = int(name.strip("qwenlavitr"))
        model = internvl() if "internvl" in name else llava(size, tmp_path) if "llava" in name else qwen(size)
    assert sum(weight.numel() for weight in model.parameters()) / 1e9 == pytest.approx(billions, abs=0.06)


def test_every_key_of_llava_video_finds_its_place(tmp_path):
    with torch.device("meta"):
        places = set(llava(7, tmp_path).state_dict())
    layer = [f"self_attn.{p}_proj.{k}" for p in "qkv" for k in ("weight", "bias")]
    layer += ["self_attn.o_proj.weight", "input_layernorm.weight", "post_attention_layernorm.weight"]
    layer += [f"mlp.{p}_proj.weight" for p in ("gate", "up", "down")]
    keys = [f"model.layers.{i}.{name}" for i in range(28) for name in layer]
    keys += ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight", "model.image_newline"]
    keys += [f"model.mm_projector.{i}.{k}" for i in (0, 2) for k in ("weight", "bias")]
    tower = "model.vision_tower.vision_tower.vision_model."
    parts = ["layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"]
    parts += [f"self_attn.{p}_proj" for p in ("q", "k", "v", "out")]
    keys += [f"{tower}encoder.layers.{i}.{p}.{k}" for i in range(26) for p in parts for k in ("weight", "bias")]
    keys += [f"{tower}{p}.{k}" for p in ("post_layernorm", "embeddings.patch_embedding") for k in ("weight", "bias")]
    keys += [f"{tower}embeddings.position_embedding.weight"]
    renamings = [WeightRenaming(source_patterns=old, target_patterns=new) for old, new in RENAMINGS]
    found = set()
    for key in keys:
        for renaming in renamings:
            key = renaming.rename_source_key(key)[0]
        found.add(key)
    assert found == places
