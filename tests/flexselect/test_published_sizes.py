"""The published models through the real loader: every size builds, every key finds its place, nothing is passed over.

The configurations are tests/published/*.json; README.md there says where their fields were seen. The weights are sparse
files of zeros (no disk, no memory) with the names and shapes that tests/tiny.py gives them, whose rules are written the
other way round from the loader's: so this proves that the two agree at full size, not that the hub's files are named
so.
"""

import json
import struct
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    InternVLForConditionalGeneration,
    LlavaOnevisionForConditionalGeneration,
    Qwen2_5_VLForConditionalGeneration,
    core_model_loading,
)

from flexselect.families import Qwen3VL, Qwen35, family_of
from flexselect.loading.internvl_chat import internvl_config
from flexselect.loading.llava_qwen import llava_config
from flexselect.loading.weights import LoadOptions
from tests import tiny
from tests.fixtures import slow_but

PUBLISHED = Path(__file__).parents[1] / "published"
SIZES = {  # published parameters in billions, reference layer
    "Qwen2.5-VL-7B": (8.29, 20),
    "Qwen2.5-VL-72B": (73.4, 60),
    "LLaVA-Video-7B": (8.03, 19),
    "LLaVA-Video-72B": (73.2, 60),
    "InternVL2.5-1B": (0.94, 11),  # no layer published: same depth as 8B
    "InternVL2.5-8B": (8.08, 15),
    "InternVL2.5-78B": (78.4, 38),
    # No layer was published for the rest: as deep as Qwen2.5-VL's or InternVL2.5's, of a hybrid the nearest with one.
    "Qwen3-VL-2B": (2.127532032, 20),
    "Qwen3-VL-4B": (4.437815808, 26),
    "Qwen3-VL-8B": (8.767123696, 26),
    "Qwen3-VL-32B": (33.357390064, 46),
    "Qwen3-VL-30B-A3B": (31.070754032, 34),
    "Qwen3.5-0.8B": (0.873438784, 15),
    "Qwen3.5-2B": (2.274069824, 15),
    "Qwen3.5-4B": (4.659865088, 23),
    "Qwen3.5-9B": (9.653104368, 23),
    "Qwen3.5-27B": (27.781427952, 47),
    "Qwen3.6-27B": (27.781427952, 47),
    "Qwen3.5-35B-A3B": (35.951822704, 27),
    "Qwen3.5-122B-A10B": (125.086497008, 35),
    "Qwen3.5-397B-A17B": (403.397928944, 43),
    "InternVL3-1B": (0.938193024, 11),
    "InternVL3-2B": (2.09, 13),
    "InternVL3-8B": (7.94, 13),
    "InternVL3-14B": (15.1, 22),
    "InternVL3-38B": (38.388164992, 30),
    "InternVL3-78B": (78.408318336, 38),
    "InternVL3.5-1B": (1.1, 13),
    "InternVL3.5-2B": (2.3, 13),
    "InternVL3.5-4B": (4.7, 17),
    "InternVL3.5-8B": (8.5, 17),
    "InternVL3.5-14B": (15.1, 19),
    "InternVL3.5-38B": (38.4, 30),
}
OF_QWEN = {  # language models of InternVL3 and 3.5: width, of its MLP, layers, heads, heads of keys, vocabulary
    "InternVL3-1B": (896, 4864, 24, 14, 2, 151674),
    "InternVL3-2B": (1536, 8960, 28, 12, 2, 151674),
    "InternVL3-8B": (3584, 18944, 28, 28, 4, 151674),
    "InternVL3-14B": (5120, 13824, 48, 40, 8, 151674),
    "InternVL3-38B": (5120, 27648, 64, 40, 8, 151674),
    "InternVL3-78B": (8192, 29568, 80, 64, 8, 151674),
    "InternVL3.5-1B": (1024, 3072, 28, 16, 8, 151936),
    "InternVL3.5-2B": (2048, 6144, 28, 16, 8, 151936),
    "InternVL3.5-4B": (2560, 9728, 36, 32, 8, 151936),
    "InternVL3.5-8B": (4096, 12288, 36, 32, 8, 151936),
    "InternVL3.5-14B": (5120, 17408, 40, 40, 8, 151936),
    "InternVL3.5-38B": (5120, 25600, 64, 64, 8, 151936),
}
EXAMPLES = {"Qwen3-VL-30B-A3B", "Qwen3.5-2B", "Qwen3.5-9B", "Qwen3.5-35B-A3B", "InternVL3.5-8B"}  # of the newer ones
LARGE = {"Qwen2.5-VL-72B", "LLaVA-Video-72B", "InternVL2.5-78B"}
NEWER = {name for name in SIZES if name.startswith(("Qwen3", "InternVL3"))}


def config_of(name):
    """A published config.json; those of InternVL3 and 3.5 differ from 2.5's in the language model alone."""
    if name not in OF_QWEN:
        return json.loads((PUBLISHED / f"{name}.json").read_text())
    base = json.loads((PUBLISHED / f"InternVL2.5-{'78B' if name.endswith(('38B', '78B')) else '8B'}.json").read_text())
    kind = "qwen3" if "3.5" in name else "qwen2"
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    text = dict(zip((*names, "vocab_size"), OF_QWEN[name]))
    text |= {"architectures": [f"{kind.capitalize()}ForCausalLM"], "model_type": kind, "rope_theta": 1e6}
    text |= {"head_dim": 128} if kind == "qwen3" else {}
    return {**base, "llm_config": text}


MODELS = {  # name: (config.json, published parameters in billions, reference layer)
    name: (config_of(name), *numbers) for name, numbers in SIZES.items()
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
        if config["model_type"] in Qwen3VL.models | Qwen35.models:
            return as_qwen3_released(config, AutoConfig.from_pretrained(folder))
        model = Qwen2_5_VLForConditionalGeneration._from_config(AutoConfig.from_pretrained(folder))
        return tiny.qwen_names(model.state_dict())


def as_qwen3_released(config, described):
    """Sizes by the names in the hub's index files: tied weights once, a layer that drafts, experts as they lie."""
    model = (Qwen3VL.models | Qwen35.models)[config["model_type"]]._from_config(described)
    weights = model.state_dict()
    if described.tie_word_embeddings:
        del weights["lm_head.weight"]
    if config["model_type"] == "qwen3_vl_moe":
        weights |= {name: weight.transpose(1, 2) for name, weight in weights.items() if "mlp.experts." in name}
    text = described.text_config
    if config["model_type"].startswith("qwen3_5"):
        weights |= {f"mtp.{name}": torch.empty(shape) for name, shape in draft_layer(text).items()}
    return weights


def draft_layer(text):
    """Shapes of `mtp`, by name: one more layer with attention, and what brings it into step."""
    width, head, kv = text.hidden_size, text.num_attention_heads * text.head_dim, text.num_key_value_heads
    norms = ("input_layernorm", "post_attention_layernorm")
    shapes = {"fc.weight": (width, 2 * width), "norm.weight": (width,)}
    shapes |= {f"pre_fc_norm_{of}.weight": (width,) for of in ("embedding", "hidden")}
    layer = {f"{norm}.weight": (width,) for norm in norms}
    layer |= {f"self_attn.{of}_norm.weight": (text.head_dim,) for of in "qk"}
    layer |= {f"self_attn.{of}_proj.weight": (kv * text.head_dim, width) for of in "kv"}
    layer |= {"self_attn.q_proj.weight": (2 * head, width), "self_attn.o_proj.weight": (width, head)}
    if text.model_type == "qwen3_5_moe_text":
        layer |= {"mlp.gate.weight": (text.num_experts, width), "mlp.shared_expert_gate.weight": (1, width)}
        layer |= mlp("mlp.shared_expert", width, text.shared_expert_intermediate_size)
        for expert in range(text.num_experts):
            layer |= mlp(f"mlp.experts.{expert}", width, text.moe_intermediate_size)
    else:
        layer |= mlp("mlp", width, text.intermediate_size)
    return shapes | {f"layers.0.{name}": shape for name, shape in layer.items()}


def mlp(name, width, inner):
    return {
        f"{name}.gate_proj.weight": (inner, width),
        f"{name}.up_proj.weight": (inner, width),
        f"{name}.down_proj.weight": (width, inner),
    }


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
        shape = tensor.shape if isinstance(tensor, torch.Tensor) else tensor.get_shape()
        return torch.empty(shape, device=device, dtype=dtype or torch.bfloat16)

    monkeypatch.setattr(core_model_loading, "_materialize_copy", shape_of)


@pytest.fixture(params=slow_but(lambda name: name not in NEWER - EXAMPLES | LARGE, MODELS))
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
    stored = sum(weight.numel() for weight in weights.values())
    assert stored / 1e9 == pytest.approx(billions, abs=1e-9 if billions != round(billions, 3) else 0.06)
    assert parameters == sum(weight.numel() for name, weight in weights.items() if not name.startswith("mtp."))
    by_shape = family.load(LoadOptions(shapes_only=True))  # as `check --quick` does
    assert {name: weight.shape for name, weight in by_shape.model.named_parameters()} == {
        name: weight.shape for name, weight in lm.model.named_parameters()
    }
    assert family.default_reference_layer == layer


TENSORS = {"Qwen3.6-27B": 1199, "Qwen3.5-397B-A17B": 2924, "Qwen3-VL-32B": 1058}  # published counts
LAYER = ["input_layernorm", "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
ATTENTION = [f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")]
RECURRENT = [
    f"linear_attn.{name}"
    for name in ("in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj", "norm", "conv1d")
]
BLOCK = [
    f"{part}.{kind}"
    for part in ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.linear_fc1", "mlp.linear_fc2")
    for kind in ("weight", "bias")
]


def test_names_are_those_of_the_published_index(tmp_path):
    """Of a layer of each kind, as they stand in an index file; and how many tensors there are."""
    for name, count in TENSORS.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(MODELS[name][0]))
        weights = as_released(folder, MODELS[name][0])
        assert len(weights) == count, name
    weights = as_released(folder.with_name("Qwen3.6-27B"), MODELS["Qwen3.6-27B"][0])
    of = lambda start: {name.removeprefix(start) for name in weights if name.startswith(start)}  # noqa: E731
    language, visual = "model.language_model.layers", "model.visual.blocks"
    assert of(f"{language}.3.") == {f"{part}.weight" for part in LAYER + ATTENTION}
    odd = {"linear_attn.A_log", "linear_attn.dt_bias"}
    assert of(f"{language}.4.") == {f"{part}.weight" for part in LAYER + RECURRENT} | odd
    assert of(f"{visual}.26.") == set(BLOCK) and not of(f"{visual}.27.")
    assert len(of("mtp.")) == 15 and {"lm_head.weight", "model.visual.pos_embed.weight"} <= set(weights)


def test_a_key_too_many_or_too_few_is_refused_at_full_size(tmp_path):
    config, *_ = MODELS["InternVL2.5-8B"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = as_released(tmp_path, config)
    weights["vision_model.encoder.layers.23.extra"] = weights.pop("vision_model.encoder.layers.23.ls1")
    write_sparse(tmp_path, weights)
    with pytest.raises(ValueError, match=r"do not fit.*layer\.23\.lambda_1.*layer\.23\.extra"):
        family_of(str(tmp_path)).load(LoadOptions(device_map={"": "meta"}))
