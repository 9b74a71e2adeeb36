"""The verb `check`: on the demo, on every family, and on what is wrong."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import cli
from flexselect import FlexSelect, LiteSelector
from flexselect.analysis import after_loading, before_loading
from flexselect.analysis.before_loading import GPU
from flexselect.analysis.findings import Findings
from flexselect.analysis.plan import Plan
from flexselect.commands import check
from flexselect.families import family_of
from flexselect.families.base import VideoLM
from flexselect.loading import checkpoint_files
from flexselect.selectors.lite_selector import selector_config
from tests import tiny
from tests.fixtures import in_two_families
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


def config_of(folder, tmp_path, accelerator="auto", **model):
    """A config of a model, as those that ship."""
    family = type(family_of(str(folder)))
    content = {"family": {"class_path": f"flexselect.families.{family.__name__}", "init_args": {"path": str(folder)}}}
    content["model"] = {"init_args": {"selector": "self", "dtype": "float32", **model}}
    content["trainer"] = {"accelerator": accelerator}
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
    assert needles["recall"].keys() == {"training-free", "lite"}
    assert min(needles["recall"].values()) > 4 * needles["chance"]
    shown = capsys.readouterr().out
    assert all(f"{name}: " in shown for name in findings) and "81 tensors, 4.0 MB" in shown


@in_two_families
def test_every_family(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(check, "NEEDLES", (2, 4))
    monkeypatch.setattr(check, "FRAMES", 4)
    findings = checked(tmp_path, "--config", config_of(model_folder, tmp_path))
    names = [name for name, finding in findings.items() if "apart" in finding["values"]]
    assert "all tokens kept" in names and any(name.startswith("scores at layer") for name in names)
    from_pixels = findings["logits from pixels"]
    no_way_in = "internvl" in str(model_folder)  # a tiny one's vocabulary lacks the placeholder
    assert from_pixels["state"] == ("not known" if no_way_in else "ok")
    assert all(findings[name]["values"]["apart"] < 1e-4 for name in names), "float32 on one machine"


def test_canary_other_scores_are_seen(checkpoint, tmp_path, monkeypatch):
    """Those of another layer."""
    real = after_loading.ReferenceLayerScorer
    monkeypatch.setattr(after_loading, "ReferenceLayerScorer", lambda lm, layer: real(lm, layer - 1))
    findings = checked(tmp_path, "--config", config_of(checkpoint, tmp_path), status=1)
    assert list(findings)[-1].startswith("attention of"), "the rest is checked too"
    (scores,) = [finding for name, finding in findings.items() if name.startswith("scores at layer")]
    assert scores["state"] == "not ok" and "report" in scores["advice"]


def test_quick_stops_before_loading(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("flexselect.pipeline.load_lm", lambda *_: pytest.fail("loaded"))
    findings = checked(tmp_path, "--config", config_of(checkpoint, tmp_path), "--quick")
    first = ["machine", "GPUs", "versions", "attention kernels", "files", "names and shapes", "tokenizer"]
    assert list(findings)[: len(first)] == first and list(findings)[-2:] == ["room", "time"]
    frames = [name for name in findings if name.endswith("frames")]
    assert frames == [f"{count} frames" for count in sorted({64, 256, 1024, family_of(str(checkpoint)).max_frames})]


def copied(checkpoint, tmp_path):
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def test_a_missing_shard(checkpoint, tmp_path):
    folder = copied(checkpoint, tmp_path)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    files = checked(tmp_path, "--config", config_of(folder, tmp_path), status=1)["files"]
    assert files["state"] == "not ok" and "has no model-00002-of-00002.safetensors" in files["text"]


@pytest.mark.parametrize(
    ("make", "text", "advice"),
    [
        (lambda file: file.write_text("version https://git-lfs.github.com/spec/v1"), "pointer of Git LFS", "lfs pull"),
        (lambda file: file.rename(file.with_name("pytorch_model.bin")), "are no .safetensors files", "save_pretrained"),
        (lambda file: file.rename(file.with_name("model-00001-of-00001.safetensors")), "the index of the shards", "it"),
    ],
)
def test_weights_in_another_form(make, text, advice, checkpoint, tmp_path):
    """Named by `check`, and by the error of whoever loads without it."""
    folder = copied(checkpoint, tmp_path)
    make(folder / "model.safetensors")
    files = checked(tmp_path, "--config", config_of(folder, tmp_path), "--quick", status=1)["files"]
    assert files["state"] == "not ok" and text in files["text"] and advice in files["advice"]
    with pytest.raises(ValueError, match=text):
        FlexSelect.from_pretrained(str(folder), device="cpu")


def edited(folder, *path, value):
    """Change one field of a checkpoint's config.json."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    section = config
    for name in path[:-1]:
        section = section.setdefault(name, {})
    section[path[-1]] = value
    file.write_text(json.dumps(config))


def test_a_number_that_no_weight_depends_on(tmp_path):
    """M-RoPE's sections: refused before loading."""
    folder = tiny.qwen2_5_vl(tmp_path)
    edited(folder, "text_config", "rope_parameters", "mrope_section", value=[1, 1, 1])
    found = checked(tmp_path, "--config", config_of(folder, tmp_path), "--quick", status=1)
    assert not_ok(found) == ["forward pass"] and "config.json is not" in found["forward pass"]["advice"]


@pytest.mark.parametrize(
    ("defaults", "message"),
    [
        ({"reference_layer": 99}, "reference_layer is 99, not between 0 and"),
        ({"budget": 0}, "budget is 0, not a whole number above 0"),
        ({"budget": 2.5}, "budget is 2.5, not a whole number above 0"),
        ({"max_frames": -4}, "max_frames is -4, not a number above 0"),
        ({"fps": math.nan}, "fps is nan, not a number above 0"),
    ],
)
def test_wrong_defaults_in_a_config_json(defaults, message, checkpoint, tmp_path, capsys):
    folder, config = copied(checkpoint, tmp_path), config_of(checkpoint, tmp_path)
    edited(folder, "flexselect", value=defaults)
    assert cli.main(["check", "--config", str(config), "--family.path", str(folder)]) == 2
    assert message in capsys.readouterr().err


def test_another_kind_of_model_is_named_in_full(checkpoint, tmp_path, capsys):
    folder, config = copied(checkpoint, tmp_path), config_of(checkpoint, tmp_path)
    edited(folder, "model_type", value="clip")
    assert cli.main(["check", "--config", str(config), "--family.path", str(folder)]) == 2
    assert "model_type 'clip', architectures [" in capsys.readouterr().err


def test_a_selector_that_finds_less_than_half():
    """As a selector that was not trained: above chance, and far below training-free."""
    clip = SimpleNamespace(prompt=SimpleNamespace(clip=SimpleNamespace(num_units=16)), others=8)
    for recall, state in ((0.2, "not known"), (0.5, "ok")):
        findings = Findings()
        after_loading.judge_recalls(findings, {"training-free": 0.8, "lite": recall}, [clip])
        assert findings[0].state == state


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


def test_what_changes_greedy_answers_is_named(checkpoint, tmp_path):
    folder = copied(checkpoint, tmp_path)
    file = folder / "generation_config.json"
    file.write_text(json.dumps({"temperature": 0.1, "do_sample": True, "repetition_penalty": 1.05, "min_length": 0}))
    words = ("--quick", "--config", config_of(folder, tmp_path))
    assert checked(tmp_path, *words)["generation_config.json"]["text"].startswith("repetition_penalty 1.05 changes gr")
    file.write_text(json.dumps({"temperature": 0.1, "repetition_penalty": 1.0}))
    assert checked(tmp_path, *words)["generation_config.json"]["text"] == "answers are greedy"
    file.write_text('{"temperature": ')
    finding = checked(tmp_path, *words, status=1)["generation_config.json"]
    assert finding["state"] == "not ok" and "generation_config.json" in finding["text"]


def not_ok(findings):
    return [name for name, finding in findings.items() if finding["state"] == "not ok"]


def changed_weights(folder, change):
    """Rewrite the tensors of a checkpoint."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_weight_of_another_name_and_another_shape(checkpoint, tmp_path):
    """Named before anything is loaded."""
    folder = copied(checkpoint, tmp_path)
    name = next(key for key in load_file(folder / "model.safetensors") if key.endswith("layers.1.mlp.down_proj.weight"))
    changed_weights(folder, lambda weights: weights.update({name + ".old": weights.pop(name)}))
    config = config_of(folder, tmp_path)
    found = checked(tmp_path, "--config", config, "--quick", status=1)
    assert (
        not_ok(found) == ["names and shapes"] and "layers.1.mlp.down_proj.weight" in found["names and shapes"]["text"]
    )
    changed_weights(folder, lambda weights: weights.update({name: weights.pop(name + ".old")[:, 1:].clone()}))
    found = checked(tmp_path, "--config", config, "--quick", status=1)
    assert not_ok(found) == ["names and shapes"] and "mismatched" in found["names and shapes"]["text"]


@pytest.mark.parametrize(("value", "what"), [(math.nan, "have NaN or infinity"), (0.0, "are all zero")])
def test_damaged_weights(value, what, checkpoint, tmp_path):
    """One line names them, and nothing that follows from them is measured."""
    folder = copied(checkpoint, tmp_path)
    changed_weights(folder, lambda weights: next(w for n, w in weights.items() if "down_proj" in n).fill_(value))
    found = checked(tmp_path, "--config", config_of(folder, tmp_path), status=1)
    text = found["values of weights"]["text"]
    assert list(found)[-1] == "values of weights" and "mlp.down_proj.weight" in text and what in text


def test_a_damaged_selector(tmp_path):
    """It is named, not the model."""
    selector = Path(shutil.copytree("checkpoints/demo/selector", tmp_path / "selector"))
    changed_weights(selector, lambda weights: next(iter(weights.values())).fill_(math.nan))
    found = checked(tmp_path, "--config", "configs/demo/lite.yaml", "--model.selector", selector, status=1)
    assert not_ok(found) == ["values of the selector"] and found["values of weights"]["state"] == "ok"


def test_overflow(checkpoint, tmp_path, monkeypatch):
    """Finite weights, NaN logits: said once, and the check ends."""
    monkeypatch.setattr(VideoLM, "next_token_logits", lambda lm, inputs: torch.full((4,), math.nan))
    found = checked(tmp_path, "--config", config_of(checkpoint, tmp_path), status=1)
    assert list(found)[-1] == "logits" and "NaN or infinite" in found["logits"]["text"]


@pytest.mark.parametrize("index", ["{}", "[]", "{", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_a_damaged_index(index, checkpoint, tmp_path):
    folder = copied(checkpoint, tmp_path)
    (folder / "model.safetensors.index.json").write_text(index)
    found = checked(tmp_path, "--config", config_of(folder, tmp_path), "--quick", status=1)
    assert not_ok(found) == ["files"] and "model.safetensors.index.json" in found["files"]["text"]


def test_a_selector_of_another_model(checkpoint, tmp_path):
    """Before anything is loaded."""
    config = config_of(checkpoint, tmp_path)
    other = tmp_path / "llava"
    other.mkdir()
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    sizes |= {"intermediate_size": 48}
    LiteSelector(selector_config(family_of(str(tiny.llava_video(other))), sizes)).save_pretrained(tmp_path / "selector")
    words = "--config", config, "--quick", "--model.selector", tmp_path / "selector"
    found = checked(tmp_path, *words, status=1)
    assert not_ok(found) == ["selector"] and "it was trained for another model" in found["selector"]["text"]
    weights = tmp_path / "selector" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert not_ok(checked(tmp_path, *words, status=1)) == ["selector's files"]


def test_an_error_of_any_kind_is_a_finding(checkpoint, tmp_path, monkeypatch):
    """It does not end the check, and what was found before is in the file."""
    monkeypatch.setattr(check, "check_shapes", lambda findings, plan: findings.add("names and shapes", "ok", "skipped"))
    monkeypatch.setattr(check, "check_files", lambda *_: {}["a key"])
    found = checked(tmp_path, "--config", config_of(checkpoint, tmp_path), "--quick", status=1)
    assert found["files"]["text"] == "KeyError: 'a key'" and found["tokenizer"]["state"] == "ok"
    assert found["room"]["state"] == "ok", "it can be estimated without weights"


def test_a_lost_gpu_ends_the_check():
    with pytest.raises(torch.AcceleratorError), Findings().step("numbers", ""):
        raise torch.AcceleratorError("illegal memory access")


def test_rounded_frequencies(checkpoint, tmp_path, monkeypatch):
    """As a model has that was converted as a whole, buffers too."""
    load = FlexSelect.from_pretrained

    def rounded(*args, **options):
        fs = load(*args, **options)
        fs.lm.decoder.rotary_emb.inv_freq = fs.lm.decoder.rotary_emb.inv_freq.bfloat16()
        return fs

    monkeypatch.setattr(FlexSelect, "from_pretrained", rounded)
    monkeypatch.setattr(check, "NEEDLES", (1, 4))
    found = checked(tmp_path, "--config", config_of(checkpoint, tmp_path), status=1)
    assert "frequencies" in not_ok(found) and "rotary_emb.inv_freq are rounded" in found["frequencies"]["text"]


def test_bench_and_kernels(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(check, "NEEDLES", (2, 4))
    monkeypatch.setattr(check, "BENCH_FRAMES", (4, 8, 1024))
    words = "--config", config_of(checkpoint, tmp_path), "--bench", "--family.max_frames", 8
    found = checked(tmp_path, *words)
    assert "a question about 1024 frames" not in found, "this config takes at most 8"
    values = [found[f"a question about {frames} frames"]["values"] for frames in (4, 8)]
    assert all(list(value["later"]) == ["encode", "score", "prefill"] for value in values)
    counts = found["attention of 8 frames"]["values"]
    assert sum(counts.values()) >= 5 and "scaled_dot_product_attention" not in counts, "by the kernel that ran"


@pytest.mark.parametrize(
    ("shift", "weights", "state"), [(0, 10**9, "ok"), (1, 10**6, "not known"), (1, 10**9, "not ok")]
)
def test_whether_a_model_reads_text(shift, weights, state):
    """A model that knows each next token; and one whose vocabulary is shifted."""
    ids = torch.arange(20)

    def model(inputs_embeds, use_cache):
        following = torch.nn.functional.one_hot((inputs_embeds[..., 0].long() + 1 + shift) % 100, 100)
        return SimpleNamespace(logits=10.0 * following)

    prompter = SimpleNamespace(ids=lambda text: ids)
    lm = SimpleNamespace(prompter=prompter, device="cpu", embed=lambda ids: ids[..., None].float(), model=model)
    findings = Findings()
    after_loading.check_text(findings, lm, weights)
    assert findings[0].state == state and findings[0].values["chance"] == pytest.approx(math.log(100))


def test_internvl_from_pixels(tmp_path):
    """With a placeholder that is in the vocabulary, as in the published model."""
    fs = FlexSelect.from_pretrained(str(tiny.internvl(tmp_path)), dtype="float32", device="cpu")
    prompt = tiny.prompt(fs, count=3)
    assert fs.lm.logits_from_pixels(prompt) is None
    fs.lm.model.config.image_token_id = fs.lm.model.model.config.image_token_id = 447
    assert 447 not in prompt.query_ids and 447 not in prompt.prefix_ids
    assert_near(fs.lm.logits_from_pixels(prompt), fs.next_token_logits(prompt))


def test_a_model_that_does_not_fit_the_gpu(checkpoint, tmp_path, monkeypatch):
    """Refused before loading, with the option that makes it fit."""
    gpus = [GPU("small", total=2 * 10**9, free=int(1.55e9))]
    monkeypatch.setattr(before_loading, "find_gpus", lambda: gpus)
    monkeypatch.setattr(Plan, "weights", 10**9)
    monkeypatch.setattr("flexselect.pipeline.load_lm", lambda *_: pytest.fail("loaded"))
    config = config_of(checkpoint, tmp_path)
    found = checked(tmp_path, "--config", config, status=1)
    assert found["64 frames"]["state"] == "not ok" and "--model.quantization 4bit" in found["room"]["advice"]
    monkeypatch.setattr(Plan, "weights", 10**6)
    found = checked(tmp_path, "--config", config, status=1)
    assert found["64 frames"]["state"] == "ok" and found["1024 frames"]["state"] == "not ok"
    most = found["room"]["values"]["frames"]
    assert 64 <= most < 1024 and f"lower --family.max_frames to {most}" in found["room"]["advice"]
    found = checked(tmp_path, "--config", config, "--family.max_frames", most, "--quick")
    assert found["room"]["state"] == "ok" and found["1024 frames"]["state"] == "not known"
    gpus.append(gpus[0])
    found = checked(tmp_path, "--config", config, "--quick", status=1)
    assert "on 1 GPU;" in found["room"]["text"], "it is loaded onto one"
    gpus[:] = [GPU("small", 2 * 10**9, int(1.8e9))] * 2
    spread = checked(tmp_path, "--config", config, "--quick", "--model.device_map", "auto")["room"]
    assert "on 2 GPUs;" in spread["text"] and spread["values"]["available"] == pytest.approx(2 * 0.3e9)


def test_a_model_that_does_not_fit_the_memory(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(before_loading, "memory_of_machine", lambda: 10**9)
    found = checked(tmp_path, "--config", config_of(checkpoint, tmp_path), "--quick", status=1)["room"]
    assert "up to 0 frames fit in 1.0 GB of the CPU's memory" in found["text"]


@pytest.mark.parametrize(
    ("config", "words", "place"),
    [
        ("cpu", [], "CPU"),
        ("auto", [], "GPU"),
        ("gpu", [], "GPU"),
        ("cpu", ["--trainer.accelerator", "gpu"], "GPU"),
        ("gpu", ["--trainer.accelerator=cpu"], "CPU"),
    ],
)
def test_the_trainer_says_where_the_model_runs(config, words, place, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(before_loading, "find_gpus", lambda: [GPU("large", 8 * 10**10, 7 * 10**10)])
    found = checked(tmp_path, "--config", config_of(checkpoint, tmp_path, config), "--quick", *words)
    assert place in found["room"]["text"]


def test_a_selector_takes_memory(tmp_path):
    lite = checked(tmp_path, "--config", "configs/demo/lite.yaml", "--quick")
    free = checked(tmp_path, "--config", "configs/demo/self.yaml", "--quick")
    more = lite["64 frames"]["values"]["weights"] - free["64 frames"]["values"]["weights"]
    assert more == 4 * lite["selector"]["values"]["count"] > 4 * 300_000


def test_a_download_that_does_not_fit_the_disk(monkeypatch):
    findings = Findings()
    asked = []
    monkeypatch.setattr(checkpoint_files, "cached_file", lambda *_, **how: asked.append(how["local_files_only"]))
    usage = SimpleNamespace(free=10 * 10**9)
    monkeypatch.setattr(before_loading.shutil, "disk_usage", lambda path: usage)
    for weights, state in ((8 * 10**9, "not ok"), (10**9, "not known")):
        before_loading.check_files(findings, "files", "some/model", weights)
        assert findings[-1].state == state and "is not downloaded: about" in findings[-1].text
    assert "16.0 GB to fetch, 10.0 GB of disk are free" in findings[0].text and "HF_HOME" in findings[0].advice
    assert asked and all(asked), "an estimate downloads nothing"


DEMO = "--config", "configs/demo/self.yaml"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "nowhere.yaml"], "nowhere.yaml: no such config"),
        ([*DEMO, "--model.budgt", "3"], "there is no --model.budgt; did you mean --model.budget?"),
        ([*DEMO, "--trainer.devices", "3"], "--trainer.devices: check takes --config"),
        ([*DEMO, "--family.path", "/nowhere"], "/nowhere is not a folder"),
        ([*DEMO, "--model.device", "cuda"], "check has no option device"),
        ([*DEMO, "--trainer.accelerator", "gpu"], "PyTorch finds no GPU here"),
        ([*DEMO, "--model.budget", "[1"], "--model.budget: '[1' cannot be read"),
        ([*DEMO, "--family.max_framez", "3"], "there is no --family.max_framez; did you mean --family.max_frames?"),
        ([*DEMO, "--family.path", "7"], "family.path must be a folder or a hub id, got 7"),
        (
            [*DEMO, "--family.class_path", "flexselect.families.Qwen99VL"],
            "there is no family flexselect.families.Qwen99VL",
        ),
        (["--config", "configs/data/mlvu.yaml"], "configs/data/mlvu.yaml: no family in it"),
        ([*DEMO, "--quik"], "did you mean --quick?"),
        ([*DEMO, "--model.budget"], "--model.budget has no value"),
        ([*DEMO, "--quick", "--bench"], "leave out one of them"),
        ([*DEMO, "--model.keep", "nonsense"], "--model.keep cannot be nonsense: it is one of auto"),
        ([*DEMO, "--model.reference_layer", "99"], "reference_layer must be between 0 and 4"),
        ([*DEMO, "--model.selector", "/nowhere"], "/nowhere is not a folder"),
        ([*DEMO, "--quick", "--output", "configs"], "--output configs cannot be written"),
        ([*DEMO, "--quick", "--output="], "--output needs the name of a file"),
        (["--config", "configs/selector/qwen2_5_vl_7b.yaml"], "it trains a selector; use a model's config"),
        (["--config", "configs"], "configs cannot be read as a config"),
        (["--config", "README.md"], "README.md cannot be read as a config"),
    ],
)
def test_what_cannot_be_checked(words, message, capsys):
    assert cli.main(["check", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(Path().glob(".configs*.tmp"))


def test_a_mistyped_section(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text(Path("configs/demo/self.yaml").read_text().replace("model:", "modle:"))
    assert cli.main(["check", "--config", str(tmp_path / "a.yaml")]) == 2
    assert "has no option modle; did you mean model?" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["- a", "family: 3", "model: [1]", "trainer: x", "word", "model: {init_args: [a]}"])
def test_what_is_no_config(content, tmp_path, capsys):
    (tmp_path / "a.yaml").write_text(content)
    assert cli.main(["check", "--config", str(tmp_path / "a.yaml")]) == 2
    assert "must hold names and values" in capsys.readouterr().err


def test_a_video_token_of_another_id(checkpoint, tmp_path):
    folder = copied(checkpoint, tmp_path)
    edited(folder, "video_token_id", value=7)
    found = checked(tmp_path, "--config", config_of(folder, tmp_path), "--quick", status=1)
    assert not_ok(found) == ["tokenizer"] and "video_token_id in config.json is 7" in found["tokenizer"]["text"]


def test_an_option_that_needs_a_package_is_no_fault_of_the_weights(checkpoint, tmp_path):
    words = "--config", config_of(checkpoint, tmp_path), "--quick", "--model.quantization", "4bit"
    found = checked(tmp_path, *words, status=1)
    assert not_ok(found) == ["options"] and "needs bitsandbytes" in found["options"]["text"]


def test_the_output_file_is_all_that_is_written(tmp_path):
    """Not a file of the user's beside it; through a link; even if it ends in .tmp."""
    (tmp_path / "a.tmp").write_text("mine")
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    for name in ("a.json", "link.json", "b.tmp"):
        assert cli.main(["check", *DEMO, "--quick", "--output", str(tmp_path / name)]) == 0
        assert json.loads((tmp_path / name).read_text())[0]["name"] == "machine"
    assert (tmp_path / "a.tmp").read_text() == "mine" and (tmp_path / "link.json").is_symlink()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.json", "a.tmp", "b.tmp", "link.json", "real.json"]
