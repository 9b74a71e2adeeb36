"""What a new selector starts from: the VideoLLM's first layers, or a small model in its real layout."""

from dataclasses import replace

import pytest
import torch
from transformers import Qwen2ForCausalLM, Qwen3ForCausalLM

from flexselect import FlexSelect, LiteSelector
from flexselect.attention.layers import is_hybrid
from flexselect.families import family_of
from flexselect.loading.weights import LoadOptions
from flexselect.training.adapters import LINEARS, RECURRENT_LINEARS, add_lora, merge_lora
from flexselect.training.initialization import initial_config, load_initial_weights
from tests import tiny

KINDS = ("qwen2_5_vl", "llava_video", "internvl", "qwen3_vl", "qwen3_5")
LANGUAGE_MODELS = {"qwen2_5_vl": Qwen2ForCausalLM, "qwen3_vl": Qwen3ForCausalLM}  # to start from


@pytest.fixture(scope="module", params=KINDS)
def model(request, tmp_path_factory):
    return tiny.BUILDERS[request.param](tmp_path_factory.mktemp("model"))


def begun(family, start, sizes):
    selector = LiteSelector(initial_config(family, start, sizes, "max"))
    selector.name_or_path = start
    load_initial_weights(selector, start, family.load(LoadOptions(torch.float32)))
    return selector


def scores(model, selector, prompt=None):
    fs = FlexSelect.from_pretrained(str(model), selector=str(selector), dtype="float32", device="cpu")
    return fs.select(tiny.prompt(fs, count=4)).scores


def scores_without_deepstack(model):
    """Training-free scores from the same tokens without their deepstack features."""
    fs = FlexSelect.from_pretrained(str(model), selector="self", dtype="float32", device="cpu")
    prompt = tiny.prompt(fs, count=4)
    encoded = fs.encode(prompt)
    plain = replace(encoded, features=encoded.features[:, : fs.lm.decoder.config.hidden_size])
    return fs.select_encoded(plain, [prompt.query_ids])[0].scores


def test_as_many_layers_as_the_teacher_scores_like_the_teacher(model, tmp_path):
    """Reference layer 2: three layers are all that its scores come from. Deepstack features are not seen by it."""
    selector = begun(family_of(str(model)), "teacher", {"num_hidden_layers": 3})
    selector.save_pretrained(tmp_path)
    expected = scores(model, "self")
    if selector.config.unseen_size:
        assert not torch.allclose(scores(model, tmp_path), expected, rtol=1e-2), "canary"
        expected = scores_without_deepstack(model)
    torch.testing.assert_close(scores(model, tmp_path), expected, atol=1e-7, rtol=1e-5)
    narrow = begun(family_of(str(model)), "teacher", {"num_hidden_layers": 2, "intermediate_size": 48})
    narrow.save_pretrained(tmp_path / "narrow")
    assert narrow.num_parameters() < selector.num_parameters()
    assert not torch.allclose(scores(model, tmp_path / "narrow"), scores(model, "self"), rtol=1e-2), "canary"


@pytest.mark.parametrize("kind", KINDS)
def test_from_the_small_released_model(kind, tmp_path, tmp_path_factory):
    model = tiny.BUILDERS[kind](tmp_path_factory.mktemp("model"))
    family, start = family_of(str(model)), tiny.small_model(kind, tmp_path)
    selector = begun(family, str(start), {})
    if kind in LANGUAGE_MODELS:
        small = LANGUAGE_MODELS[kind].from_pretrained(start).model.state_dict()
        merger = family.load(LoadOptions(torch.float32)).projector_weights()
        last = ("mlp.2", "linear_fc2")  # cut to the width of the selector
        expected = {
            name: weight[: 32 if any(part in name for part in last) else None] for name, weight in merger.items()
        }
        sections = {"qwen2_5_vl": [2, 3, 3], "qwen3_vl": [4, 2, 2]}
        assert selector.config.text_config.rope_parameters["mrope_section"] == sections[kind]
    else:
        lm = family_of(str(start)).load(LoadOptions(torch.float32))
        small, expected = lm.decoder.state_dict(), lm.projector_weights()
        if kind == "qwen3_5":  # the small ones have a smaller tower
            expected = family.load(LoadOptions(torch.float32)).projector_weights()
    assert all(torch.equal(weight, small[name]) for name, weight in selector.decoder.state_dict().items())
    assert all(torch.equal(weight, expected[name]) for name, weight in selector.projector.state_dict().items())
    selector.save_pretrained(tmp_path / "selector")
    assert float(scores(model, tmp_path / "selector").std()) > 0


def test_a_small_internvl_of_another_vocabulary_brings_its_tokenizer(tmp_path, tmp_path_factory):
    model = tiny.internvl(tmp_path_factory.mktemp("model"))
    start = tiny.internvl(tmp_path / "small")
    text = (start / "tokenizer.json").read_text()
    family = family_of(str(model))
    ids = family.special_ids
    swapped = text.replace("</img>", "<ximg>").replace("<img>", "</img>").replace("<ximg>", "<img>")
    (start / "tokenizer.json").write_text(swapped)
    settings = (start / "tokenizer_config.json").read_text()
    settings = settings.replace("</img>", "<ximg>").replace("<img>", "</img>").replace("<ximg>", "<img>")
    (start / "tokenizer_config.json").write_text(settings)
    selector = begun(family, str(start), {})
    assert selector.config.own_tokenizer
    assert selector.config.brackets == [ids["</img>"], ids["<img>"]]
    selector.save_pretrained(tmp_path / "selector")
    assert (tmp_path / "selector" / "tokenizer.json").exists()
    assert float(scores(model, tmp_path / "selector").std()) > 0


def test_what_it_cannot_start_from_is_refused(model, tmp_path):
    family = family_of(str(model))
    with pytest.raises(ValueError, match=r"cannot start from teacher: .* needed"):
        begun(family, "teacher", {"intermediate_size": 1000, "num_hidden_layers": 3})
    other, name = (tiny.qwen2_5_vl, "Qwen2.5-VL") if family.name == "Qwen3-VL" else (tiny.qwen3_vl, "Qwen3-VL")
    with pytest.raises(ValueError, match=rf"cannot start from .*, which is {name}"):
        initial_config(family, str(other(tmp_path)), {}, "max")


def test_lora_merged_is_lora_unmerged(model, tmp_path):
    family = family_of(str(model))
    selector = begun(family, "teacher", {"num_hidden_layers": 2})
    selector.save_pretrained(tmp_path / "before")
    add_lora(selector, {"r": 4, "lora_alpha": 8})
    adapters = {name: weight for name, weight in selector.named_parameters() if "lora_" in name}
    linears = 2 * len(LINEARS)  # of two layers
    if is_hybrid(selector.decoder.config):
        linears += len(RECURRENT_LINEARS) - 4  # instead of queries, keys, values and output
    assert len(adapters) == 2 * linears
    trained = {name for name, weight in selector.named_parameters() if weight.requires_grad}
    assert trained == set(adapters) | {f"projector.{name}" for name, _ in selector.projector.named_parameters()}
    for weight in adapters.values():
        torch.nn.init.normal_(weight, std=0.1)
    fs = FlexSelect.from_pretrained(str(model), selector=str(tmp_path / "before"), dtype="float32", device="cpu")
    prompt = tiny.prompt(fs, count=4)
    before = fs.select(prompt).scores
    fs.scorer.selector = selector.eval()
    unmerged = fs.select(prompt).scores
    merge_lora(selector)
    assert not [name for name, _ in selector.named_modules() if "lora" in name]
    selector.save_pretrained(tmp_path / "merged")
    merged = scores(model, tmp_path / "merged")
    torch.testing.assert_close(merged, unmerged, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before, merged, rtol=1e-2), "canary"
