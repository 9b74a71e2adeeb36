"""The verb `check`: on the demo, on every family, and on what is wrong."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

import cli
from flexselect import FlexSelect, LiteSelector
from flexselect.analysis import after_loading, before_loading
from flexselect.analysis.findings import Findings
from flexselect.commands import check
from flexselect.families import family_of
from flexselect.loading import fingerprint
from flexselect.selectors.lite_selector import selector_config
from tests import tiny
from tests.near import assert_near

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def checked(tmp_path, *words, status=0):
    """The findings by name."""
    output = tmp_path / "check.json"
    assert cli.main(["check", *map(str, words), "--output", str(output)]) == status
    return {finding["name"]: finding for finding in json.loads(output.read_text())}


def config_of(folder, tmp_path, **model):
    """A config of a model, as those that ship."""
    family = type(family_of(str(folder)))
    content = {"family": {"class_path": f"flexselect.families.{family.__name__}", "init_args": {"path": str(folder)}}}
    content["model"] = {"init_args": {"selector": "self", "dtype": "float32", **model}}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_the_demo_with_its_selector(tmp_path, capsys):
    config = "configs/demo/lite.yaml"
    findings = checked(tmp_path, "--config", config)
    assert {finding["state"] for finding in findings.values()} <= {"ok", "not known"}
    right = findings["answers about needles"]["values"]["right"]
    assert right.keys() == {"dense", "training-free", "lite"} and right["dense"] >= 6 and min(right.values()) >= 2
    needles = findings["needles"]["values"]
    assert needles["recall"] > 4 * needles["chance"]
    shown = capsys.readouterr().out
    assert all(f"{name}: " in shown for name in findings) and "81 tensors, 4.0 MB" in shown


def test_every_family(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(check, "NEEDLES", (2, 4))
    monkeypatch.setattr(check, "FRAMES", 4)
    findings = checked(tmp_path, "--config", config_of(model_folder, tmp_path))
    names = [name for name, finding in findings.items() if "apart" in finding["values"]]
    assert "all tokens kept" in names and any(name.startswith("scores at layer") for name in names)
    from_pixels = findings["logits from pixels"]
    no_way_in = "llava" in str(model_folder) or "internvl" in str(
        model_folder
    )  # a tiny InternVL's vocabulary is smaller
    assert from_pixels["state"] == ("not known" if no_way_in else "ok")
    assert all(findings[name]["values"]["apart"] < 1e-4 for name in names), "float32 on one machine"


def test_canary_other_scores_are_seen(checkpoint, tmp_path, monkeypatch):
    """Those of another layer."""
    real = after_loading.ReferenceLayerScorer
    monkeypatch.setattr(after_loading, "ReferenceLayerScorer", lambda lm, layer: real(lm, layer - 1))
    findings = checked(tmp_path, "--config", config_of(checkpoint, tmp_path), status=1)
    (scores,) = [finding for name, finding in findings.items() if name.startswith("scores at layer")]
    assert scores["state"] == "not ok" and "report" in scores["advice"]


def test_quick_stops_before_loading(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("flexselect.pipeline.load_lm", lambda *_: pytest.fail("loaded"))
    findings = checked(tmp_path, "--config", config_of(checkpoint, tmp_path), "--quick")
    assert list(findings)[:5] == ["machine", "GPUs", "versions", "attention kernels", "files"]
    assert [name for name in findings if name.endswith("frames")] == ["64 frames", "256 frames", "1024 frames"]


def copied(checkpoint, tmp_path):
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def test_a_missing_shard(checkpoint, tmp_path):
    folder = copied(checkpoint, tmp_path)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    files = checked(tmp_path, "--config", config_of(folder, tmp_path), status=1)["files"]
    assert files["state"] == "not ok" and "has no model-00002-of-00002.safetensors" in files["text"]


def test_a_file_that_is_cut_short(checkpoint, tmp_path):
    folder = copied(checkpoint, tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    files = checked(tmp_path, "--config", config_of(folder, tmp_path), status=1)["files"]
    assert files["state"] == "not ok" and "model.safetensors cannot be read" in files["text"]
    assert files["advice"] == "download this file again"


def test_a_wrong_tokenizer(checkpoint, tmp_path):
    folder = copied(checkpoint, tmp_path)
    (folder / "tokenizer.json").unlink()
    tokenizer = checked(tmp_path, "--config", config_of(folder, tmp_path), status=1)["tokenizer"]
    assert tokenizer["state"] == "not ok" and "is missing or does not belong to the model" in tokenizer["text"]


def test_a_selector_of_another_model(checkpoint, tmp_path):
    config = config_of(checkpoint, tmp_path)
    other = tmp_path / "llava"
    other.mkdir()
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    sizes |= {"intermediate_size": 48}
    LiteSelector(selector_config(family_of(str(tiny.llava_video(other))), sizes)).save_pretrained(tmp_path / "selector")
    findings = checked(tmp_path, "--config", config, "--model.selector", tmp_path / "selector", status=1)
    wrong = [finding for finding in findings.values() if finding["state"] == "not ok"]
    assert wrong and all("this selector takes vision features of width" in finding["text"] for finding in wrong)


def test_internvl_from_pixels(tmp_path):
    """With a placeholder that is in the vocabulary, as in the published model."""
    fs = FlexSelect.from_pretrained(str(tiny.internvl(tmp_path)), dtype="float32", device="cpu")
    prompt = tiny.prompt(fs, count=3)
    assert fs.lm.logits_from_pixels(prompt) is None
    fs.lm.model.config.image_token_id = fs.lm.model.model.config.image_token_id = 447
    assert 447 not in prompt.query_ids and 447 not in prompt.prefix_ids
    assert_near(fs.lm.logits_from_pixels(prompt), fs.next_token_logits(prompt))


def test_a_model_that_does_not_fit_the_gpu(checkpoint, tmp_path, monkeypatch):
    """Refused before loading, with the option that would make it fit."""
    gpu = SimpleNamespace(total_memory=int(1.55e9), name="small")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: gpu)
    monkeypatch.setattr(check, "count_weights", lambda family: 10**9)
    monkeypatch.setattr("flexselect.pipeline.load_lm", lambda *_: pytest.fail("loaded"))
    config = config_of(checkpoint, tmp_path)
    found = checked(tmp_path, "--config", config, status=1)["64 frames"]
    assert found["state"] == "not ok" and "--model.quantization 4bit" in found["advice"]
    monkeypatch.setattr(check, "count_weights", lambda family: 10**6)
    found = checked(tmp_path, "--config", config, status=1)
    assert found["64 frames"]["state"] == "ok" and "--family.max_frames" in found["1024 frames"]["advice"]


def test_a_download_that_does_not_fit_the_disk(monkeypatch):
    findings = Findings()
    asked = []
    monkeypatch.setattr(fingerprint, "cached_file", lambda *_, **how: asked.append(how["local_files_only"]))
    usage = SimpleNamespace(free=10 * 10**9)
    monkeypatch.setattr(before_loading.shutil, "disk_usage", lambda path: usage)
    for weights, state in ((8 * 10**9, "not ok"), (10**9, "not known")):
        before_loading.check_files(findings, "some/model", weights)
        assert findings[-1].state == state and "is not downloaded: about" in findings[-1].text
    assert "16.0 GB to fetch, 10.0 GB of disk are free" in findings[0].text and "HF_HOME" in findings[0].advice
    assert asked and all(asked), "an estimate downloads nothing"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "nowhere.yaml"], "nowhere.yaml: no such config"),
        (["--config", "configs/demo/self.yaml", "--model.budgt", "3"], "budgt; did you mean budget?"),
        (["--config", "configs/demo/self.yaml", "--trainer.devices", "3"], "check takes --family.NAME VALUE"),
        (["--config", "configs/demo/self.yaml", "--family.path", "/nowhere"], "/nowhere is not a folder"),
    ],
)
def test_what_cannot_be_checked(words, message, capsys):
    assert cli.main(["check", *words]) == 2
    assert message in capsys.readouterr().err
