"""The demo's recipe in the other families' classes: short clips to train on, long ones to ask about."""

import json
import logging
import runpy
import sys
from pathlib import Path

import pytest
import torch

import cli
from datamodules.needles import write_needle_videos

ROOT = Path(__file__).parents[2]
CLASSES = {"llava_video": "LlavaVideo", "internvl": "InternVL", "qwen3_5": "Qwen35"}
TRAINED = {  # epochs, seconds of the videos, 5 % of their tokens, and what selecting must gain over all tokens
    "llava_video": ("80", 512, "307", 0.1),  # 512 frames of 12 tokens
    "internvl": ("80", 512, "281", 0.1),  # 511 frames of 11 tokens
    "qwen3_5": ("32", 256, "115", 0.2),  # 256 units of 9 tokens; a recurrence is slow without its kernels
}


def lay_out(kind: str, folder: Path) -> list[str]:
    """An untrained tiny model of a family; returns the options that name it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["build.py", kind, str(folder)])
        runpy.run_path(str(ROOT / "checkpoints" / "demo" / "build.py"), run_name="__main__")
    return ["--family", f"flexselect.families.{CLASSES[kind]}", "--family.path", str(folder)]


def validated(family: list[str], mode: str, annotations: Path, out: Path) -> float:
    arguments = ["validate", "--config", f"configs/demo/{mode}.yaml", *family, "--output_dir", str(out)]
    assert cli.main([*arguments, "--data.annotations", str(annotations), "--data.num_workers", "0"]) == 0
    return json.loads((out / "results.json").read_text())["accuracy"]


@pytest.mark.parametrize("kind", CLASSES)
def test_the_recipe_runs(kind, tmp_path, monkeypatch):
    """One epoch of two steps, and the checkpoint it writes answers in every mode."""
    monkeypatch.chdir(ROOT)
    family = lay_out(kind, tmp_path / "untrained")
    short = ["--trainer.max_epochs", "1", "--data.steps_per_epoch", "2", "--data.batch_size", "2"]
    train = ["fit", "--config", "configs/demo/train_video_llm.yaml", *family, "--output_dir", str(tmp_path / "model")]
    assert cli.main([*train, *short, "--model.warmup_steps", "1", "--trainer.enable_progress_bar", "false"]) == 0
    annotations = write_needle_videos(tmp_path / "videos", videos=1, patches=20, questions=2, seed=1)
    family[-1] = str(tmp_path / "model")
    for mode in ("dense", "self"):
        assert 0 <= validated(family, mode, annotations, tmp_path / mode) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", TRAINED)
def test_a_trained_model_of_each_family_shows_the_effect(kind, tmp_path, monkeypatch):
    """Trained on clips of at most 16 seconds, asked about minutes in words, with all tokens and with 5 %."""
    monkeypatch.chdir(ROOT)
    torch.set_num_threads(2)
    epochs, seconds, budget, gain = TRAINED[kind]
    family = lay_out(kind, tmp_path / "untrained")
    train = ["fit", "--config", "configs/demo/train_video_llm.yaml", *family, "--output_dir", str(tmp_path / "model")]
    short = [
        "--data.letters",
        "false",
        "--trainer.max_epochs",
        epochs,
        "--trainer.enable_progress_bar",
        "false",
    ]
    assert cli.main([*train, *short]) == 0
    annotations = write_needle_videos(tmp_path / "videos", videos=6, patches=seconds, seed=77)
    in_words = [row for row in map(json.loads, annotations.read_text().splitlines()) if not row["options"]]
    annotations.write_text("".join(json.dumps(row) + "\n" for row in in_words))
    family[-1] = str(tmp_path / "model")
    family += ["--model.budget", budget]
    accuracy = {mode: validated(family, mode, annotations, tmp_path / mode) for mode in ("dense", "self", "uniform")}
    logging.getLogger(__name__).warning("%s: %s", kind, accuracy)  # shown with -o log_cli=true
    assert accuracy["self"] >= accuracy["dense"] + gain
    assert accuracy["self"] >= accuracy["uniform"] + 0.1
