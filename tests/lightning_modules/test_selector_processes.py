"""A selector's training in several processes, and after a kill."""

import csv
import signal

import pytest
import torch

from tests.lightning_modules.test_selector_training import fit_words, words
from tests.processes import TWO, Run


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two videos of six questions each."""
    from datamodules.needles import write_needle_videos

    folder = tmp_path_factory.mktemp("videos")
    write_needle_videos(folder, videos=2, patches=6, needles=3, questions=6, seed=1)
    return folder


def run(arguments, status=0):
    return Run(arguments).ended(status)


def keep(folder, *more):
    return ["--trainer.callbacks+", "tests.gradients.KeepGradients", "--trainer.callbacks.folder", str(folder), *more]


def metrics(out):
    rows = [row for file in out.glob("csv/version_*/metrics.csv") for row in csv.DictReader(file.open())]
    return {k: float(v) for row in rows if row.get("selector_spearman") for k, v in row.items() if v and k != "step"}


def last(out):
    return torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)


def test_two_processes_are_one(qwen, clips, tmp_path):
    """The same gradients for the same global batch, and the same validation, of clips that do not share out evenly."""
    one, two, val = tmp_path / "one", tmp_path / "two", tmp_path / "val.jsonl"
    lines = (clips / "annotations.jsonl").read_text().splitlines(keepends=True)
    val.write_text("".join(lines[:5]))
    ask = ["--data.val_annotations", str(val), "--data.video_root", str(clips)]
    run(fit_words(qwen, clips, one, *ask, "--data.batch_size", "4", *keep(one)))
    run(fit_words(qwen, clips, two, *ask, *TWO, "--data.batch_size", "2", *keep(two)))
    grads = [torch.load(out / "gradients.pt", weights_only=True) for out in (one, two)]
    assert set(grads[0]) == set(grads[1]) and len(grads[0]) > 10
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, atol=1e-5 * float(grad.abs().max()), rtol=1e-4)
    actual, expected = metrics(one), metrics(two)
    assert len(actual) > 20 and set(actual) == set(expected)
    assert actual == pytest.approx(expected, abs=1e-6)
    exported = (two / "selector" / "model.safetensors").read_bytes()
    assert len(exported) == len((one / "selector" / "model.safetensors").read_bytes())


TRAINING = ("--data.batch_size", "2", "--trainer.max_epochs", "2", "--data.num_workers", "1")


@pytest.fixture(scope="module")
def whole(qwen, clips, tmp_path_factory):
    """A training of two epochs of six steps, with a worker that reads ahead, that nobody killed."""
    out = tmp_path_factory.mktemp("whole")
    run(fit_words(qwen, clips, out, *TRAINING))
    return out


@pytest.mark.parametrize(
    ("save_every", "die_at", "saved"),
    [
        pytest.param(2, 3, 2, id="in an epoch"),
        pytest.param(3, 7, 6, id="where an epoch ends", marks=pytest.mark.slow),
        pytest.param(100, 8, 6, id="after a validation", marks=pytest.mark.slow),
        pytest.param(100, 6, 6, id="before an epoch's first step"),
    ],
)
def test_killed_and_gone_on_with_is_uninterrupted(qwen, clips, whole, tmp_path, save_every, die_at, saved):
    options, broken = [*TRAINING, "--model.save_every", str(save_every)], tmp_path / "broken"
    die = keep(broken, "--trainer.callbacks.die_at", str(die_at))
    run(fit_words(qwen, clips, broken, *options, *die), -signal.SIGKILL)
    assert last(broken)["global_step"] == saved
    output = run(fit_words(qwen, clips, broken, *options))
    assert f"going on from {broken / 'checkpoints' / 'last.ckpt'}" in output and f"going on from step {saved}" in output
    ends = [last(out) for out in (whole, broken)]
    assert ends[0]["global_step"] == ends[1]["global_step"] == 12
    for name, weight in ends[0]["state_dict"].items():
        assert torch.equal(weight, ends[1]["state_dict"][name]), name
    curves = [loss_curve(out) for out in (whole, broken)]
    assert curves[0] == curves[1] and len(curves[0]) == 12, "the same losses, step by step"
    assert len(set(curves[0].values())) == 12, "canary"
    exported = [(out / "selector" / "model.safetensors").read_bytes() for out in (whole, broken)]
    assert exported[0] == exported[1], "the same one is the best"


def test_a_training_that_is_done_is_not_begun(qwen, clips, tmp_path):
    run(fit_words(qwen, clips, tmp_path, "--data.batch_size", "2"))
    assert last(tmp_path)["global_step"] == 6
    output = run(fit_words(qwen, clips, tmp_path, "--data.batch_size", "2"))
    assert "nothing left to train" in output


def loss_curve(out):
    files = sorted(out.glob("csv/version_*/metrics.csv"))
    rows = [row for file in files for row in csv.DictReader(file.open())]
    return {int(row["step"]): float(row["train_loss"]) for row in rows if row["train_loss"]}


def test_an_ended_epoch_is_gone_on_with_too(qwen, clips, tmp_path):
    options = ["--data.batch_size", "2", "--model.save_every", "100"]
    run(fit_words(qwen, clips, tmp_path, *options, "--trainer.max_epochs", "1"))
    assert last(tmp_path)["global_step"] == 6
    run(fit_words(qwen, clips, tmp_path, *options, "--trainer.max_epochs", "2"))
    assert last(tmp_path)["global_step"] == 12
    assert sorted(loss_curve(tmp_path)) == list(range(12))


def test_another_training_is_not_gone_on_with(qwen, clips, tmp_path):
    run(fit_words(qwen, clips, tmp_path, "--data.batch_size", "6"))
    output = run(fit_words(qwen, clips, tmp_path, "--data.batch_size", "6", "--model.loss", "l1"), status=2)
    assert "loss was silog, is l1" in output and "another --output_dir" in output
    killed = ["--data.batch_size", "2", "--model.save_every", "1"]
    other = tmp_path / "other"
    run(fit_words(qwen, clips, other, *killed, *keep(other, "--trainer.callbacks.die_at", "3")), -signal.SIGKILL)
    output = run(fit_words(qwen, clips, other, "--data.batch_size", "3"), status=2)
    assert "data.clips_a_step was 2, is 3" in output


def test_teacher_scores_by_two_processes(qwen, clips, tmp_path):
    run(words("predict", "teacher_scores", qwen, clips, tmp_path / "two", *TWO))
    run(words("predict", "teacher_scores", qwen, clips, tmp_path / "one"))
    from flexselect.storage.score_store import ScoreStore

    one, two = ScoreStore(tmp_path / "one"), ScoreStore(tmp_path / "two")
    assert one.scored == two.scored and len(one.scored) == 12
    assert len(list((tmp_path / "two").glob("index-*.jsonl"))) == 2
    for key in one.scored:
        torch.testing.assert_close(one.read(key), two.read(key), rtol=1e-3, atol=1e-6)
