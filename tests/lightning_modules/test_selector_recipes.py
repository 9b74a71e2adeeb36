"""The YAMLs that train selectors of the released sizes, on tiny models."""

import json
from pathlib import Path

import pytest
import torch
import yaml

import cli
from flexselect import LiteSelector
from flexselect.families import family_of
from flexselect.loading.weights import LoadOptions
from tests import tiny
from tests.fixtures import TWO, slow_but

ROOT = Path(__file__).parents[2]
RECIPES = {
    "qwen2_5_vl": "qwen2_5_vl_7b",
    "llava_video": "llava_video_7b",
    "internvl": "internvl2_5_8b",
    "qwen3_vl": "qwen3_vl_8b",
    "qwen3_5": "qwen3_5_9b",
}


YARN = yaml.safe_load((ROOT / "configs/selector/qwen2_5_vl_7b.yaml").read_text())
YARN = YARN["model"]["init_args"]["sizes"]["rope_parameters"]


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("kind", slow_but(TWO.__contains__, RECIPES))
def test_recipe_of_a_selector(kind, videos, tmp_path):
    """The YAMLs of the released sizes, on tiny models: scores stored, trained, exported."""
    for name in ("model", "small"):
        (tmp_path / name).mkdir()
    model, recipe = tiny.BUILDERS[kind](tmp_path / "model"), f"{RECIPES[kind]}.yaml"
    start = tiny.small_model(kind, tmp_path / "small")
    rows = (videos / "annotations.jsonl").read_text().splitlines()
    few = tmp_path / "annotations.jsonl"
    few.write_text("\n".join(rows[::4]) + "\n")  # a question of each video
    annotations = str(few)
    always = ["--config", "configs/trainer/cpu.yaml", "--family.path", str(model), "--model.reference_layer", "2"]
    always += ["--data.annotations", annotations, "--data.val_annotations", annotations, "--data.num_workers", "0"]
    always += ["--data.video_root", str(videos), "--family.max_frames", "2", "--trainer.enable_progress_bar", "false"]
    always += ["--trainer.strategy", "auto"]  # a process group would stay, and its port taken, in this process
    store, out = str(tmp_path / "store"), str(tmp_path / "out")
    assert cli.main(["predict", "--config", f"configs/teacher_scores/{recipe}", *always, "--output_dir", store]) == 0
    options = ["--data.teacher_scores", store, "--output_dir", out, "--model.start", str(start)]
    if kind == "qwen2_5_vl":  # a head is smaller here
        options += ["--model.sizes", json.dumps({"rope_parameters": {**YARN, "mrope_section": [2, 3, 3]}})]
    assert cli.main(["fit", "--config", f"configs/selector/{recipe}", *always, *options]) == 0
    selector = LiteSelector.from_pretrained(f"{out}/selector")
    assert selector.config.training["start"] == str(start) and selector.config.training["layer"] == 2
    if kind == "qwen2_5_vl":
        assert selector.config.text_config.rope_parameters["factor"] == 4.0
        merger = family_of(str(model)).load(LoadOptions(torch.bfloat16)).projector_weights()
        weights = selector.projector.state_dict()
        assert all(torch.equal(weights[name], merger[name][: len(weights[name])].float()) for name in weights), "frozen"
