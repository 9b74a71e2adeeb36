"""Training a selector: every family, through the command line, exported, used; losses, stored scores, refusals."""

import csv
import json
import logging
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from jsonargparse.typing import timedelta_deserializer
from lightning.pytorch.plugins import FSDPPrecision
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy

import cli
from datamodules.needles import write_needle_videos
from flexselect import FlexSelect, LiteSelector, VideoPrompt
from flexselect.contracts import TrainingClip
from flexselect.families import family_of
from flexselect.storage.run_settings import UsageError
from flexselect.storage.score_store import round_to_stored
from flexselect.structures.frames import ReadOptions
from flexselect.training.losses import LOSSES
from lightning_modules.selector_training import SelectorTraining
from tests import tiny
from tests.near import assert_near, assert_near_stored
from tests.processes import server

ROOT = Path(__file__).parents[2]
CLASSES = {"qwen2_5_vl": "Qwen25VL", "llava_video": "LlavaVideo", "internvl": "InternVL"}
CLASSES |= {"qwen3_vl": "Qwen3VL", "qwen3_5": "Qwen35"}
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
SIZES |= {"intermediate_size": 48}


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module", params=CLASSES)
def model(request, tmp_path_factory):
    return request.param, tiny.BUILDERS[request.param](tmp_path_factory.mktemp("model"))


def words(verb, config, model, videos, out, *more):
    kind, folder = model
    annotations = str(videos / "annotations.jsonl")
    return [
        *(verb, "--config", f"configs/demo/{config}.yaml", "--output_dir", str(out)),
        *("--family", f"flexselect.families.{CLASSES[kind]}", "--family.path", str(folder), "--family.max_frames", "2"),
        *("--data.annotations", annotations, "--data.val_annotations", annotations, "--data.num_workers", "0"),
        *("--trainer.enable_progress_bar", "false"),
        *more,
    ]


def fit_words(model, videos, out, *more):
    fit = ["--model.sizes", json.dumps(SIZES), "--data.batch_size", "4", "--trainer.log_every_n_steps", "1"]
    return words("fit", "train_selector", model, videos, out, *fit, *more)


def fit(model, videos, out, *more):
    return cli.main(fit_words(model, videos, out, *more))


def score(model, videos, out, *more):
    return cli.main(words("predict", "teacher_scores", model, videos, out, *more))


def logged(out, name):
    rows = [row for file in sorted(out.glob("csv/version_*/metrics.csv")) for row in csv.DictReader(file.open())]
    return [float(row[name]) for row in rows if row.get(name)]


def test_fit_export_and_use(model, videos, tmp_path):
    assert fit(model, videos, tmp_path) == 0
    best = tmp_path / "checkpoints" / "best.ckpt"
    held = torch.load(best, weights_only=True)
    assert {name.split(".")[0] for name in held["state_dict"]} == {"selector"}, "frozen parts are in no checkpoint"
    assert len(logged(tmp_path, "train_loss")) == 2 and logged(tmp_path, "clips_left_out") == [0.0]
    again = words(
        "validate",
        "train_selector",
        model,
        videos,
        tmp_path / "again",
        "--ckpt_path",
        str(best),
        "--model.sizes",
        json.dumps(SIZES),
    )
    assert cli.main(again) == 0
    result = json.loads((tmp_path / "again" / "results.json").read_text())
    assert result["selector_recall_0_05"] == pytest.approx(logged(tmp_path, "selector_recall_0_05")[-1], abs=1e-5)
    for ranking in ("selector", "random", "uniform"):
        for measure in ("spearman", "recall_0_05", "overlap_0_05"):
            assert logged(tmp_path, f"{ranking}_{measure}"), f"{ranking}_{measure}"
    assert list(tmp_path.glob("tensorboard/version_0/events*"))
    exported, by_hand = tmp_path / "selector", tmp_path / "by_hand"
    assert cli.main(["export", "--ckpt_path", str(best), "--output", str(by_hand)]) == 0
    card = (by_hand / "README.md").read_text()
    assert str(model[1]) in card and "| started from | `teacher` |" in card
    assert f"{logged(tmp_path, 'selector_recall_0_05')[0]:.3f}" in card
    for folder in (exported, by_hand):
        weights = LiteSelector.from_pretrained(str(folder)).state_dict()
        assert all(torch.equal(weight, held["state_dict"][f"selector.{name}"]) for name, weight in weights.items())
        assert {file.suffix for file in folder.iterdir()} <= {".json", ".safetensors", ".md", ".model"}, "no pickle"
    options = {"dtype": "float32", "device": "cpu", "max_frames": 2}
    fs = FlexSelect.from_pretrained(str(model[1]), selector=str(exported), **options)
    assert fs.open(videos / "needles_000.mp4").ask("Which shape is red?", max_new_tokens=2).num_kept_tokens > 0


def scores_of(path, selector, file):
    """In a process of its own: scores by the loaded selector, and by the same one read alone."""
    fs = FlexSelect.from_pretrained(path, selector=selector, dtype="float32", device="cpu")
    scores = [fs.select(tiny.prompt(fs, count=4)).scores]
    fs.scorer.selector = LiteSelector.from_pretrained(selector, dtype="float32")
    scores.append(fs.select(tiny.prompt(fs, count=4)).scores)
    torch.save(scores, file)


def test_an_export_scores_the_same_in_a_fresh_process(qwen, videos, tmp_path):
    assert fit(qwen, videos, tmp_path) == 0
    arguments = [str(qwen[1]), str(tmp_path / "selector"), str(tmp_path / "scores.pt")]
    process = server().Process(target=scores_of, args=arguments)
    process.start()
    process.join(300)
    assert process.exitcode == 0
    training = module(qwen)
    weights = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    training.load_state_dict(weights)
    fs = FlexSelect.from_pretrained(str(qwen[1]), selector=str(tmp_path / "selector"), dtype="float32", device="cpu")
    fs.scorer.selector = training.selector.eval()
    expected = fs.select(tiny.prompt(fs, count=4)).scores
    for result in torch.load(tmp_path / "scores.pt", weights_only=True):
        assert_near(result, expected)


def test_validate_shows_a_wrong_selector(qwen, tmp_path, caplog, capsys):
    videos = tmp_path / "videos"
    write_needle_videos(videos, videos=1, patches=48, needles=3, questions=4, seed=1)

    def validate(selector):
        options = ["--model.selector", str(selector)]
        options += ["--model.start", "teacher"]  # of a new selector: it must not touch one that is given
        options += ["--family.max_frames", "96"]  # hundreds of tokens, for recall to mean something
        caplog.clear()
        assert cli.main(words("validate", "train_selector", qwen, videos, tmp_path / "val", *options)) == 0
        return "the selector is untrained, or for another model" in caplog.text

    family = family_of(str(qwen[1]))
    for name, start, sizes in (("wrong", None, SIZES), ("right", "teacher", {"num_hidden_layers": 3})):
        training = SelectorTraining(family, start=start, sizes=sizes, dtype="float32")
        attach(training).configure_model()
        training.selector.save_pretrained(tmp_path / name)
    assert validate(tmp_path / "wrong")
    assert not validate(tmp_path / "right")
    assert "selector_recall_0_05" in capsys.readouterr().out
    result = json.loads((tmp_path / "val" / "results.json").read_text())
    assert result["selector_recall_0_05"] == pytest.approx(1.0) and result["settings"]["reduction"] == "max"
    untrained = words("validate", "train_selector", qwen, videos, tmp_path / "val", "--model.sizes", json.dumps(SIZES))
    assert cli.main(untrained) == 2
    assert "nothing trained to validate: give --model.selector DIR" in capsys.readouterr().err


def attach(training):
    strategy = type("Strategy", (), {"root_device": torch.device("cpu")})()
    data = type("Data", (), {"store": None})()
    parts = {"strategy": strategy, "global_step": 0, "precision": "32-true", "datamodule": data, "ckpt_path": None}
    training._trainer = type("Trainer", (), parts)()
    return training


def module(model, **options):
    arguments = {"sizes": SIZES, "dtype": "float32", **options}
    training = attach(SelectorTraining(family_of(str(model[1])), **arguments))
    training.configure_model()
    training.log = lambda *_, **__: None
    return training


def clip(training, seed=0, count=2, question="Which shape is red?", scores=None):
    prompter = training.lm.prompter
    video = prompter.clip(prompter.resize(tiny.frames(count, seed=seed)))
    prompt = VideoPrompt(video, prompter.prefix_ids, prompter.query_ids(question))
    return TrainingClip(str(seed), prompt, scores)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_trained_weight_gets_a_gradient_and_no_other(model, loss):
    """With several GPUs a weight without one stops the training."""
    training = module(model, loss=loss)
    tiny.randomise(training.selector)
    training.training_step([clip(training), clip(training, seed=1)]).backward()
    grads = {name: weight.grad is not None for name, weight in training.selector.named_parameters()}
    trained = {name: weight.requires_grad for name, weight in training.selector.named_parameters()}
    assert grads == trained
    assert not any(weight.requires_grad or weight.grad is not None for weight in training.lm.model.parameters())


def test_what_is_frozen_stays(qwen):
    training = module(qwen, freeze=["projector", "decoder.embed_tokens"], lora=None)
    training.training_step([clip(training)]).backward()
    frozen = {name for name, weight in training.selector.named_parameters() if weight.grad is None}
    assert {"projector.merger.mlp.0.weight", "decoder.embed_tokens.weight"} <= frozen
    assert "decoder.layers.0.self_attn.q_proj.weight" not in frozen
    with pytest.raises(ValueError, match=r"freeze: a selector has no part 'tower'; its parts are decoder, "):
        module(qwen, freeze=["tower"])


def test_a_batch_is_its_clips_one_by_one(model):
    """Clips and questions of different lengths: the same loss and gradients."""
    training = module(model, start="teacher")
    clips = [
        clip(training, 0, 4, "Which shape is red?"),
        clip(training, 1, 2, "What colour is the circle that is seen first?"),
        clip(training, 2, 4, "Red?"),
    ]
    result = []
    for steps in ([clips], [[one] for one in clips]):
        training.zero_grad()
        loss = sum(training.training_step(step) * len(step) for step in steps) / 3
        loss.backward()
        result.append(
            [loss.detach(), *[weight.grad for weight in training.selector.parameters() if weight.grad is not None]]
        )
    for together, alone in zip(*result):
        torch.testing.assert_close(together, alone, atol=1e-5 * float(alone.abs().amax()), rtol=1e-4)


def test_teacher_and_selector_score_as_when_answering(model):
    training = module(model)
    (teacher,), (student,) = training.scores([clip(training)])
    fs = FlexSelect.from_pretrained(str(model[1]), selector="self", dtype="float32", device="cpu")
    assert_near_stored(teacher, round_to_stored(fs.select(clip(training).prompt).scores))
    assert student.shape == teacher.shape and student.requires_grad and not teacher.requires_grad
    assert len(training.lm.decoder.layers) == fs.family.default_reference_layer + 1, "no layer more than it needs"


def test_the_tower_runs_once_a_step(model):
    training = module(model)
    runs, vision = [], training.lm.vision
    training.lm.vision = lambda pixels, grid: runs.append(grid) or vision(pixels, grid)
    training.training_step([clip(training), clip(training, seed=1)])
    assert len(runs) == 2, "one chunk a clip"


@pytest.mark.parametrize(
    ("model", "query", "precision"),
    [
        ("qwen2_5_vl", "question", "32-true"),
        pytest.param("qwen2_5_vl", "question_and_answer", "bf16-mixed", marks=pytest.mark.slow),
        pytest.param("llava_video", "question_and_answer", "32-true", marks=pytest.mark.slow),
        ("llava_video", "question", "bf16-mixed"),
        pytest.param("internvl", "question", "32-true", marks=pytest.mark.slow),
    ],
    indirect=["model"],
)
def test_stored_and_live_scores_train_alike(model, videos, tmp_path, query, precision):
    ask = ["--data.query", query]
    assert score(model, videos, tmp_path / "store", *ask) == 0
    ask += ["--trainer.precision", precision]
    assert fit(model, videos, tmp_path / "live", *ask) == 0
    assert fit(model, videos, tmp_path / "stored", *ask, "--data.teacher_scores", str(tmp_path / "store")) == 0
    live, stored = (logged(tmp_path / how, "train_loss") for how in ("live", "stored"))
    assert live == pytest.approx(stored, rel=1e-4) and len(live) == 2, "a digit of a score in float16 moves a loss less"
    for name in ("selector_spearman", "selector_recall_0_1", "selector_overlap_0_1"):
        assert logged(tmp_path / "live", name) == pytest.approx(logged(tmp_path / "stored", name), abs=0.02)


def test_stored_scores_need_no_decoder(qwen, videos, tmp_path):
    training = module(qwen)
    (teacher,), _ = training.scores([clip(training)])
    bare = SelectorTraining(family_of(str(qwen[1])), sizes=SIZES, dtype="float32")
    store = type("Store", (), {"match": lambda self, settings: None})()
    arguments = {"store": store, "query": "question", "reading": ReadOptions(), "unscored": lambda _: []}
    attach(bare).trainer.datamodule = type("Data", (), arguments)()
    bare.configure_model()
    assert len(bare.lm.decoder.layers) == 0
    (stored,), (student,) = bare.scores([clip(bare, scores=teacher)])
    assert torch.equal(stored, teacher), "handed through"
    assert student.shape == teacher.shape
    with pytest.raises(ValueError, match=r"clip 0 has \d+ visual tokens, its stored teacher scores \d+"):
        bare.scores([clip(bare, scores=teacher[:-1])])


def test_a_store_of_another_teacher_is_refused(qwen, videos, tmp_path, capsys):
    store = tmp_path / "store"
    assert score(qwen, videos, store) == 0
    stored = ["--data.teacher_scores", str(store)]
    for option, value, output in (
        ("--model.reference_layer", "1", "reference_layer was 2, is 1"),
        ("--model.reduction", "mean", "reduction was max, is mean"),
        ("--family.max_frames", "4", "family.max_frames was 2, is 4"),
        ("--data.query", "question_and_answer", "query was question, is question_and_answer"),
    ):
        assert fit(qwen, videos, tmp_path / "out", *stored, option, value) == 2
        assert output in capsys.readouterr().err
    other = "qwen2_5_vl", tiny.qwen2_5_vl(tmp_path_factory_folder(tmp_path, "other"), seed=1)
    assert fit(other, videos, tmp_path / "out", *stored) == 2
    assert f"; model at {qwen[1]}, at {other[1]}" in capsys.readouterr().err
    assert score(qwen, videos, store, "--model.reference_layer", "1") == 2
    assert "reference_layer was 2, is 1" in capsys.readouterr().err


def tmp_path_factory_folder(parent, name):
    (parent / name).mkdir()
    return parent / name


def test_a_half_written_store_is_completed_not_redone(qwen, videos, tmp_path, caplog, capsys):
    store = tmp_path / "store"
    with caplog.at_level(logging.INFO):
        assert score(qwen, videos, store) == 0
    assert "8 clips have scores, 0 have none" in caplog.text
    index = store / "index-0.jsonl"
    lines = index.read_text().splitlines(keepends=True)
    index.write_text("".join(lines[:5]) + lines[5][:20])  # killed
    stored = ["--data.teacher_scores", str(store)]
    assert fit(qwen, videos, tmp_path / "out", *stored) == 2
    assert (
        "lacks the teacher scores of 3 clips, for example needles_001.mp4: complete it with `predict`"
        in capsys.readouterr().err
    )
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert score(qwen, videos, store) == 0
    assert "5 clips were scored by an earlier run" in caplog.text and "8 clips have scores" in caplog.text
    again = index.read_text().splitlines(keepends=True)
    assert again[:5] == lines[:5] and len(again) == 8
    assert fit(qwen, videos, tmp_path / "out", *stored) == 0


def test_a_broken_clip_is_counted_and_recorded(qwen, videos, tmp_path, caplog):
    rows = [json.loads(line) for line in (videos / "annotations.jsonl").read_text().splitlines()]
    rows[2]["video"] = "gone.mp4"
    rows = [{**row, "video": str(videos / row["video"])} for row in rows]
    (tmp_path / "annotations.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert score(qwen, tmp_path, tmp_path / "store") == 3
    assert "not scored: " in caplog.text and "gone.mp4: no such file" in caplog.text
    for how in ([], ["--data.teacher_scores", str(tmp_path / "store")]):
        caplog.clear()
        out = tmp_path / f"out{len(how)}"
        assert fit(qwen, tmp_path, out, *how) == 0
        assert "left out: " in caplog.text and "gone.mp4" in caplog.text
        assert logged(out, "clips_left_out") == [2.0], "once in training, once in validation"
        assert len(logged(out, "train_loss")) == 2, "its place is taken"


def test_lora_through_the_command_line(qwen, videos, tmp_path):
    assert fit(qwen, videos, tmp_path, "--model.lora", '{"r": 4, "lora_alpha": 8}') == 0
    held = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert any("lora_A" in name for name in held["state_dict"])
    merged = LiteSelector.from_pretrained(str(tmp_path / "selector")).state_dict()
    assert not [name for name in merged if "lora" in name]
    name = "decoder.layers.0.self_attn.q_proj"
    base = held["state_dict"][f"selector.{name}.base_layer.weight"]
    a, b = (held["state_dict"][f"selector.{name}.lora_{part}.default.weight"] for part in "AB")
    torch.testing.assert_close(merged[f"{name}.weight"], base + 2 * b @ a)
    assert not torch.equal(merged[f"{name}.weight"], base), "canary"


def test_bfloat16(qwen, videos, tmp_path, capsys):
    assert fit(qwen, videos, tmp_path / "whole") == 0
    assert fit(qwen, videos, tmp_path / "mixed", "--trainer.precision", "bf16-mixed") == 0
    whole, mixed = (logged(tmp_path / how, "train_loss") for how in ("whole", "mixed"))
    assert mixed != whole and mixed == pytest.approx(whole, rel=0.1)
    held = torch.load(tmp_path / "mixed" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(weight.dtype == torch.float32 for weight in held.values())
    assert fit(qwen, videos, tmp_path / "true", "--trainer.precision", "bf16-true") == 2
    assert "use 32-true or bf16-mixed" in capsys.readouterr().err


def test_what_is_not_finite_stops_the_training(model):
    training = module(model)
    training.selector.decoder.layers[0].mlp.up_proj.weight.grad = torch.full((48, 32), float("nan"))
    with pytest.raises(ValueError, match="the gradient is nan at step 0"):
        training.on_before_optimizer_step(None)
    with torch.no_grad():
        training.selector.decoder.embed_tokens.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"the loss is nan at step 0: lower model\.lr"):
        training.training_step([clip(training)])


def test_what_cannot_begin_is_refused(qwen, capsys):
    family = family_of(str(qwen[1]))
    with pytest.raises(ValueError, match=r"set --model\.selector to continue its training, or --model\.start"):
        SelectorTraining(family)
    with pytest.raises(ValueError, match=r"LoraConfig has no alpha; it has .*lora_alpha"):
        SelectorTraining(family, sizes=SIZES, lora={"alpha": 1})


def test_what_cannot_be_exported_is_refused(tmp_path, capsys):
    assert cli.main(["export", "--ckpt_path", str(tmp_path / "none.ckpt"), "--output", str(tmp_path / "out")]) == 2
    assert "no such checkpoint" in capsys.readouterr().err
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    assert cli.main(["export", "--ckpt_path", str(tmp_path / "other.ckpt"), "--output", str(tmp_path / "out")]) == 1
    assert "holds no selector" in capsys.readouterr().err
    (tmp_path / "broken.ckpt").write_bytes(b"PK")
    assert cli.main(["export", "--ckpt_path", str(tmp_path / "broken.ckpt"), "--output", str(tmp_path / "out")]) == 1
    assert "cannot be read as a checkpoint" in capsys.readouterr().err
    assert cli.main(["export", "--ckpt_path", str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    assert "is a folder; a checkpoint that `fit` wrote is a file" in capsys.readouterr().err


@pytest.mark.parametrize("file", sorted((ROOT / "configs" / "trainer").glob("*.yaml")), ids=lambda file: file.stem)
def test_no_strategy_rounds_the_frequencies_of_positions(file):
    """RoPE's frequencies are buffers; in bfloat16, late positions would be another model's."""
    trainer = {"accelerator": "cpu", **yaml.safe_load(file.read_text())["trainer"]}
    strategy = trainer.get("strategy", "auto")
    assert strategy == "auto" or strategy["class_path"].endswith("DDPStrategy"), "it casts no buffers"
    if strategy != "auto":
        hours = DDPStrategy(timeout=timedelta_deserializer(strategy["init_args"]["timeout"]))._timeout
        assert hours >= timedelta(hours=12), "processes with unequal videos end far apart"


@pytest.mark.parametrize(("precision", "refused"), [("bf16-mixed", True), ("32-true", False)])
def test_fsdp_is_refused_where_it_would_round_them(checkpoint, precision, refused):
    module, strategy = SelectorTraining(family_of(str(checkpoint)), sizes=SIZES), FSDPStrategy()
    strategy.precision_plugin = FSDPPrecision(precision)
    module._trainer = SimpleNamespace(precision=precision, strategy=strategy)
    message = "rounds the frequencies of the positions to torch.bfloat16"
    with pytest.raises(UsageError, match=message) if refused else nullcontext():
        module.setup("fit")
