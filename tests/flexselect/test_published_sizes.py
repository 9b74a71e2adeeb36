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
    Qwen3VLForConditionalGeneration,
    core_model_loading,
)

from flexselect.families import family_of
from flexselect.loading.internvl_chat import internvl_config
from flexselect.loading.llava_qwen import llava_config
from flexselect.loading.weights import LoadOptions
from tests import tiny

PUBLISHED = Path(__file__).parents[1] / "published"
SIZES = {  # published parameters in billions, reference layer
    "Qwen2.5-VL-7B": (8.29, 20),
    "Qwen2.5-VL-72B": (73.4, 60),
    "LLaVA-Video-7B": (8.03, 19),
    "LLaVA-Video-72B": (73.2, 60),
    "Qwen3-VL-8B": (8.77, 26),  # no layer published: as deep as Qwen2.5-VL's
    "InternVL2.5-1B": (0.94, 11),  # no layer published: same depth as 8B
    "InternVL2.5-8B": (8.08, 15),
    "InternVL2.5-78B": (78.4, 38),
}
MODELS = {  # name: (config.json, published parameters in billions, reference layer)
    name: (json.loads((PUBLISHED / f"{name}.json").read_text()), *numbers) for name, numbers in SIZES.items()
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
        shape = tensor.shape if isinstance(tensor, torch.Tensor) else tensor.get_shape()
        return torch.empty(shape, device=device, dtype=dtype or torch.bfloat16)

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
    by_shape = family.load(LoadOptions(shapes_only=True))  # as `check --quick` does
    assert {name: weight.shape for name, weight in by_shape.model.named_parameters()} == {
        name: weight.shape for name, weight in lm.model.named_parameters()
    }
    assert family.default_reference_layer == layer


def test_a_key_too_many_or_too_few_is_refused_at_full_size(tmp_path):
    config, *_ = MODELS["InternVL2.5-8B"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = as_released(tmp_path, config)
    weights["vision_model.encoder.layers.23.extra"] = weights.pop("vision_model.encoder.layers.23.ls1")
    write_sparse(tmp_path, weights)
    with pytest.raises(ValueError, match=r"do not fit.*layer\.23\.lambda_1.*layer\.23\.extra"):
        family_of(str(tmp_path)).load(LoadOptions(device_map={"": "meta"}))
