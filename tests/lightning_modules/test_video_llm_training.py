"""The demo's model: its recipe runs, learns, and what it made shows the effect."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import cli
from checkpoints.demo.average import WEIGHTS, average
from checkpoints.demo.build import write_two_looks
from datamodules.announced_needles import write_announced_videos
from datamodules.needle_curriculum import NeedleCurriculum
from datamodules.needles import write_needle_videos
from flexselect import FlexSelect
from flexselect.families import Qwen25VL
from flexselect.structures.layout import lay_out
from lightning_modules.video_llm_training import IGNORED, VideoLLMTraining, _spread
from tests.datamodules.test_needle_curriculum import trainer

ROOT = Path(__file__).parents[2]
RECIPE = ["fit", "--config", "configs/demo/train_video_llm.yaml", "--trainer.enable_progress_bar", "false"]


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def announced(tmp_path_factory):
    folder = tmp_path_factory.mktemp("announced")
    write_announced_videos(folder, videos=1, patches=24, needles=2, seed=5)
    return folder


def test_fit_writes_a_checkpoint_that_answers(checkpoint, tmp_path, videos):
    short = ["--trainer.max_epochs", "1", "--data.steps_per_epoch", "2", "--data.batch_size", "2"]
    short += ["--model.warmup_steps", "1", "--family.path", str(checkpoint)]
    assert cli.main([*RECIPE, *short, "--output_dir", str(tmp_path)]) == 0
    fs = FlexSelect.from_pretrained(str(tmp_path), selector="self", dtype="float32", device="cpu")
    assert fs.open(videos / "needles_000.mp4").ask("Which shape is red?", max_new_tokens=2).num_kept_tokens == 9


def test_the_second_model_is_trained_by_its_recipe_at_two_resolutions(tmp_path, announced):
    write_two_looks(tmp_path / "untrained")
    words = ["--trainer.enable_progress_bar", "false", "--family.path", str(tmp_path / "untrained")]
    words += ["--trainer.max_epochs", "1", "--data.steps_per_epoch", "2", "--data.batch_size", "2"]
    words += ["--model.warmup_steps", "1"]
    for name, start in (("train_two_looks", []), ("train_two_looks_selected", ["--model.start", tmp_path / "whole"])):
        out = tmp_path / ("selected" if start else "whole")
        config = f"configs/demo/{name}.yaml"
        assert cli.main(["fit", "--config", config, *words, *map(str, start), "--output_dir", str(out)]) == 0
    average(tmp_path / "whole", tmp_path / "selected", 0.75, tmp_path / "model")
    whole, selected, mixed = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "selected", "model"))
    assert any(not torch.equal(whole[name], selected[name]) for name in whole)
    torch.testing.assert_close(mixed, {name: whole[name] + 0.75 * (selected[name] - whole[name]) for name in whole})
    for tokens_per_unit, numbers in ((9, {}), (1, {"max_pixels": 28 * 28})):
        how = {"selector": "self", "budget": 9, "dtype": "float32", "device": "cpu", **numbers}
        session = FlexSelect.from_pretrained(str(tmp_path / "model"), **how).open(announced / "announced_000.mp4")
        assert session.ask("Which shape is red?", max_new_tokens=2).num_visual_tokens == 24 * tokens_per_unit


def test_pruned_clips_are_trained_as_the_prompts_of_a_selection(tmp_path):
    """The embeddings of the tokens that stay, in compact positions, and the answer after them."""
    write_two_looks(tmp_path)
    training = VideoLLMTraining(Qwen25VL(str(tmp_path)))
    data = NeedleCurriculum(training.family, 2, steps_per_epoch=32, letters=False, announced=True, selected=True)
    data.trainer = trainer()
    batch = next(batch for batch in data.train_dataloader() if batch["kept"])
    embeddings, positions, labels = training._assemble(batch)
    whole, _, _ = training._assemble({**batch, "kept": []})
    prefix, kept = len(batch["prefix"]), batch["kept"]
    for i, answer in enumerate(batch["answers"]):
        length = prefix + len(kept[i]) + len(batch["queries"][i]) + len(answer)
        assert torch.equal(embeddings[i, :prefix], whole[i, :prefix])
        assert torch.equal(embeddings[i, prefix : prefix + len(kept[i])], whole[i, prefix + kept[i]])
        assert positions[:, i, :length].tolist() == [list(range(length))] * 3
        assert labels[i, length - len(answer) : length].tolist() == answer.tolist()
        assert (labels[i, : length - len(answer)] == IGNORED).all() and (labels[i, length:] == IGNORED).all()


def test_a_training_may_begin_with_the_weights_of_another_model(tmp_path, checkpoint):
    write_two_looks(tmp_path)
    family = Qwen25VL(str(tmp_path))
    start = load_file("checkpoints/demo/video_llm/model.safetensors")
    begun = VideoLLMTraining(family, start="checkpoints/demo/video_llm").model
    begun.save_pretrained(tmp_path / "begun")
    saved = load_file(tmp_path / "begun" / "model.safetensors")
    assert saved.keys() == start.keys() and all(torch.equal(saved[name], start[name].float()) for name in start)
    with pytest.raises(ValueError, match=r"video_llm cannot be the start of .*, which has other shapes"):
        VideoLLMTraining(Qwen25VL(str(checkpoint)), start="checkpoints/demo/video_llm")


def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(checkpoint, tmp_path, monkeypatch):
    """SIGTERM within an epoch: status 143, a checkpoint, and in the end the weights of an uninterrupted training."""
    short = ["--trainer.max_epochs", "2", "--data.steps_per_epoch", "4", "--data.batch_size", "2"]
    short += ["--model.warmup_steps", "1", "--family.path", str(checkpoint), "--output_dir"]
    assert cli.main([*RECIPE, *short, str(tmp_path / "whole")]) == 0

    real, steps = VideoLLMTraining.training_step, []

    def hurt(self, batch):
        steps.append(1)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, batch)

    monkeypatch.setattr(VideoLLMTraining, "training_step", hurt)
    assert cli.main([*RECIPE, *short, str(tmp_path / "stopped")]) == 143
    assert (tmp_path / "stopped" / "checkpoints" / "last.ckpt").exists() and len(steps) == 2
    assert cli.main([*RECIPE, *short, str(tmp_path / "stopped")]) == 0
    assert len(steps) == 8, "every step once"
    whole, stopped = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    assert whole.keys() == stopped.keys()
    for name, weight in whole.items():
        torch.testing.assert_close(stopped[name], weight, atol=1e-5, rtol=1e-4)  # threads may add in another order
    assert not all(torch.equal(weight, start) for weight, start in zip(whole.values(), weights_of(checkpoint)))

    for file in (tmp_path / "stopped").glob("*.safetensors"):
        file.unlink()
    assert cli.main([*RECIPE, *short, str(tmp_path / "stopped")]) == 0
    assert (tmp_path / "stopped" / "model.safetensors").exists() and len(steps) == 8, "done before, and written again"


def weights_of(folder: Path):
    return list(load_file(folder / "model.safetensors").values())


@pytest.mark.parametrize("recipe", ["train_video_llm", "train_selector"])
def test_a_checkpoint_every_zero_steps_is_refused(recipe, checkpoint, videos, tmp_path, capsys):
    table = str(videos / "annotations.jsonl")
    clips = ["--data.annotations", table, "--data.val_annotations", table] if recipe == "train_selector" else []
    words = ["fit", "--config", f"configs/demo/{recipe}.yaml", *clips, "--family.path", str(checkpoint)]
    assert cli.main([*words, "--output_dir", str(tmp_path), "--model.save_every", "0"]) == 2
    assert "save_every must be at least 1 step, got 0" in capsys.readouterr().err


def test_a_training_of_unknown_length_is_refused(checkpoint):
    """Its cosine would end after warm-up, silently."""
    module = VideoLLMTraining(Qwen25VL(str(checkpoint)), warmup_steps=50)
    module._trainer = type("Trainer", (), {"estimated_stepping_batches": -1})()
    with pytest.raises(ValueError, match="the training has no end, but the warm-up takes 50"):
        module.configure_optimizers()


def validated(mode: str, annotations: Path, out: Path) -> float:
    arguments = ["validate", "--config", f"configs/demo/{mode}.yaml", "--data.annotations", str(annotations)]
    arguments += ["--model.feature_cache", str(out.parent / "features")]
    assert cli.main([*arguments, "--output_dir", str(out), "--data.num_workers", "0"]) == 0
    return json.loads((out / "results.json").read_text())["accuracy"]


def test_the_shipped_model_shows_the_effect(tmp_path):
    """On long videos, 5 % of the tokens chosen by the model's own attention answer better than all of them."""
    annotations = write_needle_videos(tmp_path, videos=2, patches=256, seed=77)
    accuracy = {
        mode: validated(mode, annotations, tmp_path / mode) for mode in ("dense", "self", "lite", "uniform", "random")
    }
    assert accuracy["self"] >= 0.9 and accuracy["lite"] >= 0.9
    assert accuracy["self"] - accuracy["dense"] >= 0.15
    assert max(accuracy["uniform"], accuracy["random"]) <= accuracy["self"] - 0.3


@pytest.mark.slow
def test_the_recipe_learns(tmp_path):
    """A fifth of the recipe: the first stages are passed and one object is named right."""
    torch.set_num_threads(2)
    assert cli.main([*RECIPE, "--trainer.max_epochs", "20", "--output_dir", str(tmp_path)]) == 0
    annotations = write_needle_videos(tmp_path / "videos", videos=20, patches=1, needles=1, questions=2, seed=1)
    assert validated_at(tmp_path, annotations) >= 0.6


def validated_at(model: Path, annotations: Path) -> float:
    out = model / "validated"
    arguments = ["validate", "--config", "configs/demo/dense.yaml", "--family.path", str(model)]
    assert cli.main([*arguments, "--data.annotations", str(annotations), "--output_dir", str(out)]) == 0
    return json.loads((out / "results.json").read_text())["accuracy"]


def test_positions_of_a_short_clip_stand_as_far_apart_as_its_units():
    """Three units of 2 tokens, 2.5 s apart: they stand where units 0, 2 and 5 would, the text after them follows."""
    layout = lay_out(torch.zeros(4), torch.zeros(3), range(3), 2, placeholder=9)
    axis = torch.arange(13)
    where = axis + _spread(layout, axis, 2.5)
    assert where.tolist() == [0, 1, 2, 3, 4, 5, 8, 9, 14, 15, 16, 17, 18]
    assert torch.equal(_spread(layout, axis, 0.5), torch.zeros(13, dtype=torch.long)), "never nearer than they are"


def test_units_beside_timestamps_move_with_their_text():
    """Units of 4 tokens placed like images: a unit and its two texts of one token take 1 + 2 + 1 positions."""
    around = [(torch.ones(1), torch.ones(1))] * 3
    layout = lay_out(torch.zeros(2), torch.zeros(2), range(3), 4, placeholder=9, delimiters=around)
    axis = torch.tensor([0, 1, *[2, 3, 3, 3, 3, 5], *[6, 7, 7, 7, 7, 9], *[10, 11, 11, 11, 11, 13], 14, 15])
    moved = _spread(layout, axis, 3.0)
    assert moved.tolist() == [0, 0, *[0] * 6, *[4 * 2] * 6, *[4 * 4] * 6, 4 * 4, 4 * 4]
