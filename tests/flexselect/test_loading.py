"""Checkpoints of every family in every layout: read strictly, converted without loss, refused with the reason."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import cli
from flexselect import FlexSelect
from tests import tiny


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


def test_a_folder_without_tokenizer_still_scores_and_generates(model_folder, tmp_path):
    for name in ("config.json", "vision_tower_config.json", "model.safetensors"):
        if (model_folder / name).exists():
            shutil.copy(model_folder / name, tmp_path / name)
    bare, fs = read(tmp_path), read(model_folder)
    if "internvl" in model_folder.name:
        bare.lm.brackets = fs.lm.brackets  # the released ids are known, the tiny ones are not
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


def test_a_converted_checkpoint_gives_the_same_logits(model_folder, tmp_path):
    assert cli.main(["convert", "--input", str(model_folder), "--output", str(tmp_path / "hf")]) == 0
    original, converted = (
        read(model_folder),
        FlexSelect.from_pretrained(
            str(tmp_path / "hf"), selector="self", reference_layer=2, budget=9, dtype="float32", device="cpu"
        ),
    )
    prompt = tiny.prompt(original, count=4)
    assert torch.equal(original.next_token_logits(prompt), converted.next_token_logits(prompt))
    assert torch.equal(original.select(prompt).kept, converted.select(prompt).kept)
    assert original.next_token_logits(prompt).std() > 0.1, "canary"
    ids = converted.lm.prompter.query_ids("Which shape is red?")
    assert torch.equal(ids, original.lm.prompter.query_ids("Which shape is red?"))


def test_convert_does_not_overwrite(model_folder, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert cli.main(["convert", "--input", str(model_folder), "--output", str(tmp_path)]) == 1
    assert "holds a checkpoint already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "message"), [("4bit", "needs bitsandbytes and a GPU"), ("2bit", "must be 4bit or 8bit")]
)
def test_quantization_that_cannot_be_had_is_refused(model_folder, monkeypatch, kind, message):
    monkeypatch.setattr("flexselect.families.loading.is_bitsandbytes_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        FlexSelect.from_pretrained(str(model_folder), quantization=kind, device="cpu")
