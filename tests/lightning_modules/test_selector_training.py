"""Training a selector: every family, through the command line, resumed, exported, used."""

import json
from pathlib import Path

import pytest
import torch

import cli
from flexselect import FlexSelect, LiteSelector, VideoPrompt
from flexselect.families import family_of
from lightning_modules.selector_training import SelectorTraining
from tests import tiny

ROOT = Path(__file__).parents[2]
CLASSES = {"qwen2_5_vl": "Qwen25VL", "llava_video": "LlavaVideo", "internvl": "InternVL"}
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module", params=CLASSES)
def model(request, tmp_path_factory):
    return request.param, tiny.BUILDERS[request.param](tmp_path_factory.mktemp("model"))


def fit(model, videos, out, *more):
    kind, folder = model
    arguments = [
        "fit",
        "--config",
        "configs/demo/train_selector.yaml",
        "--family",
        f"flexselect.families.{CLASSES[kind]}",
    ]
    arguments += ["--family.path", str(folder), "--family.max_frames", "2", "--output_dir", str(out)]
    arguments += ["--model.sizes", json.dumps(SIZES), "--trainer.logger.save_dir", str(out)]
    annotations = str(videos / "annotations.jsonl")
    arguments += ["--data.annotations", annotations, "--data.val_annotations", annotations, "--data.num_workers", "0"]
    arguments += [
        "--data.batch_size",
        "4",
        "--trainer.enable_progress_bar",
        "false",
        "--trainer.log_every_n_steps",
        "1",
    ]
    return cli.main([*arguments, *more])


def checkpoints(out):
    return sorted(out.rglob("*.ckpt"))


def test_fit_export_and_use(model, videos, tmp_path):
    assert fit(model, videos, tmp_path, "--trainer.max_epochs", "1") == 0
    best = checkpoints(tmp_path)[0]
    held = torch.load(best, weights_only=True)
    assert {name.split(".")[0] for name in held["state_dict"]} == {"selector"}, "frozen parts are in no checkpoint"
    header, *rows = next(tmp_path.rglob("metrics.csv")).read_text().splitlines()
    names = header.split(",")
    assert {"train_loss", "selector_spearman", "selector_recall_0_05", "random_recall_0_05", "uniform_spearman"} <= set(
        names
    )
    assert len(rows) >= 3
    exported = tmp_path / "exported"
    assert cli.main(["export", "--ckpt_path", str(best), "--output", str(exported)]) == 0
    assert str(model[1]) in (exported / "README.md").read_text()
    fs = FlexSelect.from_pretrained(str(model[1]), selector=str(exported), dtype="float32", device="cpu", max_frames=2)
    weights = LiteSelector.from_pretrained(str(exported)).state_dict()
    assert all(torch.equal(weight, held["state_dict"][f"selector.{name}"]) for name, weight in weights.items())
    assert fs.open(videos / "needles_000.mp4").ask("Which shape is red?", max_new_tokens=2).num_kept_tokens > 0


def test_a_resumed_training_is_the_uninterrupted_one(model, videos, tmp_path):
    every = ["--trainer.max_epochs", "2", "--trainer.callbacks.init_args.save_top_k", "-1"]
    every += ["--trainer.callbacks.init_args.filename", "epoch={epoch}"]
    assert fit(model, videos, tmp_path / "whole", *every) == 0
    first = next(path for path in checkpoints(tmp_path / "whole") if "=0" in path.name)
    assert fit(model, videos, tmp_path / "resumed", *every, "--ckpt_path", str(first)) == 0
    ends = [
        torch.load(next(out.rglob("last.ckpt")), weights_only=True)
        for out in (tmp_path / "whole", tmp_path / "resumed")
    ]
    begun = torch.load(first, weights_only=True)["state_dict"]
    assert ends[0]["global_step"] == ends[1]["global_step"] == 4
    for name, weight in ends[0]["state_dict"].items():
        assert torch.equal(weight, ends[1]["state_dict"][name]), name
    assert any(not torch.equal(weight, begun[name]) for name, weight in ends[0]["state_dict"].items()), "canary"


def module(model, **options):
    training = SelectorTraining(family_of(str(model[1])), sizes=SIZES, dtype="float32", **options)
    strategy = type("Strategy", (), {"root_device": torch.device("cpu")})()
    training._trainer = type("Trainer", (), {"strategy": strategy, "global_step": 0})()
    training.configure_model()
    training.log = lambda *_, **__: None
    return training


def prompt(training, seed=0):
    prompter = training.lm.prompter
    clip = prompter.clip(prompter.resize(tiny.frames(2, seed=seed)))
    return VideoPrompt(clip, prompter.prefix_ids, prompter.query_ids("Which shape is red?"))


@pytest.mark.parametrize("loss", ["listwise", "spearman", "l1", "l2"])
def test_every_trained_weight_gets_a_gradient_and_no_other(model, loss):
    """With several GPUs a weight without one stops the training."""
    training = module(model, loss=loss)
    tiny.randomise(training.selector)
    training.training_step([prompt(training), prompt(training, seed=1)]).backward()
    grads = {name: weight.grad is not None for name, weight in training.selector.named_parameters()}
    trained = {name: weight.requires_grad for name, weight in training.selector.named_parameters()}
    assert grads == trained
    assert not any(weight.requires_grad or weight.grad is not None for weight in training.lm.model.parameters())


def test_teacher_and_selector_score_as_when_answering(model):
    training = module(model)
    teacher, student = training.scores(prompt(training))
    fs = FlexSelect.from_pretrained(str(model[1]), selector="self", dtype="float32", device="cpu")
    torch.testing.assert_close(teacher, fs.select(prompt(training)).scores)
    assert student.shape == teacher.shape and student.requires_grad and not teacher.requires_grad
    assert len(training.lm.decoder.layers) == fs.family.default_reference_layer + 1, "no layer more than it needs"


def test_a_loss_that_is_not_finite_stops_the_training(model):
    training = module(model)
    with torch.no_grad():
        training.selector.decoder.embed_tokens.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"the loss is nan at step 0: lower model\.lr"):
        training.training_step([prompt(training)])


def test_what_cannot_be_exported_is_refused(tmp_path, capsys):
    assert cli.main(["export", "--ckpt_path", str(tmp_path / "none.ckpt"), "--output", str(tmp_path / "out")]) == 1
    assert "no such checkpoint" in capsys.readouterr().err
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    assert cli.main(["export", "--ckpt_path", str(tmp_path / "other.ckpt"), "--output", str(tmp_path / "out")]) == 1
    assert "holds no selector" in capsys.readouterr().err
    (tmp_path / "broken.ckpt").write_bytes(b"PK")
    assert cli.main(["export", "--ckpt_path", str(tmp_path / "broken.ckpt"), "--output", str(tmp_path / "out")]) == 1
    assert "cannot be read as a checkpoint" in capsys.readouterr().err
