"""Checkpoints of every family in every layout: read strictly, converted without loss, refused with the reason."""

import dataclasses
import json
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

import cli
from flexselect import FlexSelect
from flexselect.families import LlavaVideo
from tests import tiny
from tests.near import assert_near


def broken(model_folder, tmp_path):
    return shutil.copytree(model_folder, tmp_path / "broken")


def read(folder):
    return FlexSelect.from_pretrained(str(folder), selector="self", dtype="float32", device="cpu")


@pytest.mark.parametrize("extra", [True, False])
def test_weights_that_do_not_fit_are_refused(model_folder, tmp_path, extra):
    folder = broken(model_folder, tmp_path)
    weights = load_file(folder / "model.safetensors")
    norm = next(name for name in weights if ".layers.1." in name and "norm" in name)
    if extra:
        weights[norm.replace(".layers.1.", ".layers.9.")] = weights[norm].clone()
    else:
        del weights[norm]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"do not fit.*layers?\.[19]\..*norm"):
        read(folder)


@pytest.mark.parametrize("kind", ["missing", "cut short"])
def test_weights_that_cannot_be_read_are_named(model_folder, tmp_path, kind):
    folder = broken(model_folder, tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    if kind == "missing":
        weights.unlink()
    with pytest.raises(ValueError, match=r"the weights at .*broken are missing, cut short or not weights"):
        read(folder)


def test_a_missing_shard_is_named(model_folder, tmp_path):
    folder = broken(model_folder, tmp_path)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    half = len(weights) // 2
    parts = dict(list(weights.items())[:half]), dict(list(weights.items())[half:])
    names = [f"model-0000{i + 1}-of-00002.safetensors" for i in range(2)]
    places = {key: name for name, part in zip(names, parts) for key in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    for name, part in zip(names, parts):
        save_file(part, folder / name, metadata={"format": "pt"})
    assert read(folder).budget == 9
    (folder / names[1]).unlink()
    with pytest.raises(ValueError, match=r"missing, cut short.*model-00002-of-00002"):
        read(folder)
    (folder / names[1]).write_bytes((folder / names[0]).read_bytes()[:100])
    with pytest.raises(
        ValueError, match=r"missing, cut short.*: model-00002-of-00002\.safetensors cannot be read: .*download"
    ):
        read(folder)
    save_file(parts[1], folder / names[1], metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json, the index of the shards, is missing"):
        read(folder)


def test_a_folder_without_tokenizer_still_scores_and_generates(model_folder, tmp_path):
    for name in ("config.json", "vision_tower_config.json", "model.safetensors"):
        if (model_folder / name).exists():
            shutil.copy(model_folder / name, tmp_path / name)
    bare, fs = read(tmp_path), read(model_folder)
    if "internvl" in model_folder.name:
        bare.lm.delimiters = fs.lm.delimiters  # the released ids are known, the tiny ones are not
    prompt = tiny.prompt(fs, count=4)
    pixels = fs.lm.prompter.pixel_values(prompt.clip, 0, prompt.clip.num_units)
    prompt = dataclasses.replace(prompt, clip=dataclasses.replace(prompt.clip, pixels=pixels))
    assert torch.equal(bare.select(prompt).kept, fs.select(prompt).kept)
    assert torch.equal(bare.generate(prompt, max_new_tokens=2), fs.generate(prompt, max_new_tokens=2))
    with pytest.raises(ValueError, match=r"tokenizer at .* is missing or does not belong"):
        bare.open(tiny.frames(2))


def test_a_foreign_tokenizer_is_refused(model_folder, tmp_path):
    folder = broken(model_folder, tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for token in tokenizer["added_tokens"]:
        token["content"] = token["content"].replace("im_end", "end_of_other")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(ValueError, match=r"tokenizer at .* is missing or does not belong"):
        read(folder).open(tiny.frames(2))


def test_a_tokenizer_whose_ids_are_others_is_refused(model_folder, tmp_path):
    """As from another checkpoint of the family: it reads all special tokens, as other ids."""
    folder = broken(model_folder, tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    size = len(tokenizer["model"]["vocab"])
    turned = {token: (number + 37) % size for token, number in tokenizer["model"]["vocab"].items()}
    tokenizer["model"]["vocab"] = turned
    for token in tokenizer["added_tokens"]:
        token["id"] = turned.get(token["content"], token["id"])
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(ValueError, match=r"tokenizer at .* does not belong to the model"):
        read(folder).open(tiny.frames(2))


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(model_folder, tmp_path):
    folder = broken(model_folder, tmp_path)
    tokenizer = read(folder).lm.prompter.tokenizer
    tokenizer.add_tokens([f"more{i}" for i in range(700)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(
        ValueError, match=r"does not belong to the model: it has \d+ tokens, the model's vocabulary 448"
    ):
        read(folder).open(tiny.frames(2))


def test_a_weight_of_another_size_is_named(model_folder, tmp_path):
    folder = broken(model_folder, tmp_path)
    weights = load_file(folder / "model.safetensors")
    norm = next(name for name in weights if ".layers.1." in name and "norm" in name)
    weights[norm] = weights[norm][:-1].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"do not fit.*mismatched_keys: .*layers?\.1\..*norm"):
        read(folder)


def test_a_config_that_is_cut_short_is_named(model_folder, tmp_path):
    folder = broken(model_folder, tmp_path)
    (folder / "config.json").write_text('{"model_type": "ll')
    with pytest.raises(ValueError, match=r"broken/config\.json is cut short or no JSON"):
        read(folder)


def test_a_converted_checkpoint_gives_the_same_logits(model_folder, tmp_path):
    assert cli.main(["convert", "--input", str(model_folder), "--output", str(tmp_path / "hf")]) == 0
    original, converted = (
        read(model_folder),
        FlexSelect.from_pretrained(str(tmp_path / "hf"), selector="self", dtype="float32", device="cpu"),
    )
    assert (converted.scorer.layer, converted.budget) == (2, 9), "the checkpoint's own defaults go along"
    prompt = tiny.prompt(original, count=4)
    assert_near(original.next_token_logits(prompt), converted.next_token_logits(prompt))
    assert torch.equal(original.select(prompt).kept, converted.select(prompt).kept)
    assert original.next_token_logits(prompt).std() > 0.1, "canary"
    ids = converted.lm.prompter.query_ids("Which shape is red?")
    assert torch.equal(ids, original.lm.prompter.query_ids("Which shape is red?"))


def spread(fs):
    """A device map that leaves the last three layers, the embeddings and the head on disk."""
    inside = fs.lm.model.model
    places = {f"model.{name}": "cpu" for name, _ in inside.named_children() if name != "language_model"}
    for name, _ in fs.lm.decoder.named_children():
        places[f"model.language_model.{name}"] = "disk" if name == "embed_tokens" else "cpu"
    del places["model.language_model.layers"]
    for i in range(4):
        places[f"model.language_model.layers.{i}"] = "disk" if i else "cpu"
    return {
        **places,
        "lm_head": "disk",
        **{f"model.{name}": "cpu" for name, _ in inside.named_parameters(recurse=False)},
    }


def test_a_model_spread_over_places_answers_the_same(model_folder, tmp_path):
    """As a 72B over several GPUs: accelerate brings tensors to each layer and back."""
    whole = read(model_folder)
    options = {"selector": "self", "dtype": "float32", "device": "cpu", "offload_folder": str(tmp_path)}
    parted = FlexSelect.from_pretrained(str(model_folder), device_map=spread(whole), **options)
    assert sum(weight.is_meta for weight in parted.lm.model.parameters()) > 20, "canary: they are elsewhere"
    (one, two) = (fs.open(tiny.frames(4)).ask("Which shape is red?", max_new_tokens=4) for fs in (whole, parted))
    assert_near(one.selection.scores, two.selection.scores)
    assert one.text == two.text
    prompt = tiny.prompt(whole, count=2)
    assert_near(whole.next_token_logits(prompt), parted.next_token_logits(prompt))


def test_scoring_needs_only_the_layers_up_to_the_reference_layer(model_folder, capfd):
    whole = read(model_folder)
    options = {"selector": "self", "dtype": "float32", "device": "cpu", "scoring_only": True}
    part = FlexSelect.from_pretrained(str(model_folder), **options)
    assert (len(part.lm.decoder.layers), len(whole.lm.decoder.layers)) == (3, 4)
    prompt = tiny.prompt(whole, count=4)
    assert_near(whole.select(prompt).scores, part.select(prompt).scores)
    with pytest.raises(ValueError, match="loaded for scoring only: 3 of 4 decoder layers cannot answer"):
        part.next_token_logits(prompt)
    with pytest.raises(ValueError, match="loaded for scoring only"):
        part.generate(prompt)
    assert "UNEXPECTED" not in capfd.readouterr().err
    with pytest.raises(ValueError, match="scoring_only needs selector"):
        FlexSelect.from_pretrained(str(model_folder), **{**options, "selector": "random"})


def test_scoring_only_still_refuses_weights_that_do_not_fit(model_folder, tmp_path):
    folder = broken(model_folder, tmp_path)
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "stranger": torch.zeros(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"do not fit.*stranger \(1 in all\)"):
        FlexSelect.from_pretrained(str(folder), selector="self", device="cpu", scoring_only=True)


def test_an_unmarked_onevision_layout_is_read_with_a_warning(tmp_path):
    """LLaVA-OneVision itself has one newline at the very end: reading it as LLaVA-Video would be silently worse."""
    folder = tiny.llava_video(tmp_path)
    cli.main(["convert", "--input", str(folder), "--output", str(tmp_path / "hf")])
    config = tmp_path / "hf" / "config.json"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LlavaVideo(str(tmp_path / "hf"))
    config.write_text(json.dumps({**json.loads(config.read_text()), "mm_newline_position": None}))
    with pytest.warns(UserWarning, match="does not say whether it is a LLaVA-Video"):
        LlavaVideo(str(tmp_path / "hf"))


def test_convert_does_not_overwrite(model_folder, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert cli.main(["convert", "--input", str(model_folder), "--output", str(tmp_path)]) == 1
    assert "holds a checkpoint already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "message"), [("4bit", "needs bitsandbytes and a GPU"), ("2bit", "must be one of 4bit, 8bit")]
)
def test_quantization_that_cannot_be_had_is_refused(model_folder, monkeypatch, kind, message):
    monkeypatch.setattr("flexselect.loading.weights.is_bitsandbytes_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        FlexSelect.from_pretrained(str(model_folder), quantization=kind, device="cpu")
