"""SIGTERM and Ctrl-C end every verb soon, with their own status, and lose nothing."""

import json
import os
import signal
import time
from functools import wraps
from pathlib import Path

import pytest
import torch
from lightning import Trainer

import cli
from flexselect.session import VideoSession
from flexselect.training.teacher import Teacher
from lightning_modules.command_line.interruption import PATIENCE
from lightning_modules.selector_training import SelectorTraining
from lightning_modules.waiting import wait_for_others
from tests.lightning_modules.test_selector_training import fit_words, words
from tests.processes import TWO, Run

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Six videos of four questions each."""
    from datamodules.needles import write_needle_videos

    folder = tmp_path_factory.mktemp("videos")
    write_needle_videos(folder, videos=6, patches=6, needles=3, questions=4, seed=1)
    return folder


def ask(verb, qwen, clips, out, *more):
    arguments = ["--family.path", str(qwen[1]), "--data.annotations", str(clips / "annotations.jsonl")]
    arguments += ["--output_dir", str(out), "--model.max_new_tokens", "4", *more]
    return [verb, "--config", "configs/demo/self.yaml", *arguments]


def lines(folder, names="*.jsonl"):
    return [json.loads(line) for file in folder.glob(names) for line in file.read_bytes().split(b"\n")[:-1]]


@pytest.fixture
def signalled(monkeypatch):
    """`signalled(owner, method, signum, at)`: the process gets a signal within the call number `at` of a method."""

    def signalled(owner, method, signum, at):
        real, calls = getattr(owner, method), []

        @wraps(real)  # Lightning looks at what a method takes
        def hurt(*args, **kwargs):
            calls.append(1)
            if len(calls) == at:
                os.kill(os.getpid(), signum)
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, method, hurt)
        return lambda: monkeypatch.setattr(owner, method, real)

    return signalled


@pytest.mark.parametrize(("verb", "signum"), [("predict", signal.SIGTERM), ("validate", signal.SIGINT)])
def test_answers_stay_and_the_rest_is_asked_later(qwen, clips, tmp_path, caplog, signalled, verb, signum):
    before = signal.getsignal(signum)
    whole = signalled(VideoSession, "ask", signum, 6)
    assert cli.main(ask(verb, qwen, clips, tmp_path)) == 128 + signum
    assert signal.getsignal(signum) == before, "whoever calls `main` has its own handlers back"
    assert len(lines(tmp_path)) == 5 and not (tmp_path / "results.json").exists()
    assert f"5 answers are in {tmp_path}; call again to go on" in caplog.text
    assert f"stopped by {signum.name}" in caplog.text
    whole()
    assert cli.main(ask(verb, qwen, clips, tmp_path)) == 0
    assert "5 of 24 questions were answered by an earlier run" in caplog.text
    rows = lines(tmp_path, "predictions.jsonl")
    assert len(rows) == len({row["id"] for row in rows}) == 24


def test_a_lost_gpu_ends_the_run(qwen, clips, tmp_path, monkeypatch, capfd):
    """After a CUDA error every later call fails too: those questions are not answered wrongly, but not yet asked."""
    real, calls = VideoSession.ask, []

    def lost(session, *args, **kwargs):
        calls.append(1)
        if len(calls) >= 4:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        return real(session, *args, **kwargs)

    monkeypatch.setattr(VideoSession, "ask", lost)
    assert cli.main(ask("validate", qwen, clips, tmp_path)) == 1 and len(calls) == 4
    assert "CUDA error: an illegal memory access" in capfd.readouterr().err
    rows = lines(tmp_path)
    assert len(rows) == 3 and all(row["error"] is None for row in rows) and not (tmp_path / "results.json").exists()
    monkeypatch.setattr(VideoSession, "ask", real)
    assert cli.main(ask("validate", qwen, clips, tmp_path)) == 0
    assert len(lines(tmp_path, "predictions.jsonl")) == 24


def test_an_experiment_ends_with_its_run(qwen, clips, tmp_path, signalled):
    plan = tmp_path / "plan.yaml"
    plan.write_text("configs: [configs/demo/self.yaml]\nruns: {one: {}, two: {}}\n")
    signalled(VideoSession, "ask", signal.SIGTERM, 2)
    words = ask("experiment", qwen, clips, tmp_path / "out")[3:]
    assert cli.main(["experiment", "--config", str(plan), *words]) == 143
    assert len(lines(tmp_path / "out" / "one")) == 1 and not (tmp_path / "out" / "two").exists()


def test_scores_of_a_teacher_stay(qwen, clips, tmp_path, caplog, signalled):
    arguments = words("predict", "teacher_scores", qwen, clips, tmp_path)
    whole = signalled(Teacher, "scores", signal.SIGTERM, 3)
    assert cli.main(arguments) == 143 and len(lines(tmp_path, "index-*.jsonl")) == 8
    whole()
    assert cli.main(arguments) == 0
    assert "8 clips were scored by an earlier run" in caplog.text and "24 clips have scores" in caplog.text


def test_a_verb_without_a_trainer(monkeypatch):
    def stopped(path: str):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr("flexselect.serving.serve.serve", stopped)
    began = time.monotonic()
    assert cli.main(["serve", "--path", "x"]) == 143 and time.monotonic() - began < 30


def last(out):
    return torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def whole(qwen, clips, tmp_path_factory):
    """A training of twelve steps and two validations that nobody stopped."""
    out = tmp_path_factory.mktemp("whole")
    cli.main(fit_words(qwen, clips, out, *TRAINING))
    return out


TRAINING = ("--data.batch_size", "4", "--trainer.max_epochs", "2", "--model.save_every", "1000")


def assert_same(one, other):
    ends = [last(out) for out in (one, other)]
    assert ends[0]["global_step"] == ends[1]["global_step"] == 12
    for name, weight in ends[0]["state_dict"].items():
        assert torch.equal(weight, ends[1]["state_dict"][name]), name
    exported = [(out / "selector" / "model.safetensors").read_bytes() for out in (one, other)]
    assert exported[0] == exported[1], "the same one is the best"


@pytest.mark.parametrize(
    ("method", "at", "saved"),
    [
        pytest.param("training_step", 3, 3, id="in an epoch"),
        pytest.param("training_step", 6, 5, id="in its last step", marks=pytest.mark.slow),
        pytest.param("validation_step", 4, 5, id="in its validation", marks=pytest.mark.slow),
        pytest.param("training_step", 8, 8, id="in the next", marks=pytest.mark.slow),
    ],
)
def test_fit_writes_a_checkpoint_first(qwen, clips, whole, tmp_path, caplog, signalled, method, at, saved):
    """What was gone on with is what nobody stopped, to the last bit: the same steps on the same machine."""
    mend = signalled(SelectorTraining, method, signal.SIGTERM, at)
    assert cli.main(fit_words(qwen, clips, tmp_path, *TRAINING)) == 143
    assert last(tmp_path)["global_step"] == saved
    assert f"{tmp_path / 'checkpoints' / 'last.ckpt'} has step {saved}; call again to go on" in caplog.text
    mend()
    assert cli.main(fit_words(qwen, clips, tmp_path, *TRAINING)) == 0
    assert f"going on from step {saved}" in caplog.text
    assert_same(whole, tmp_path)


# -- processes of their own


def until(process, when):
    """Wait until something holds, which must be before the process ends."""
    end = time.monotonic() + 120
    while not when():
        assert process.poll() is None, process.said()[1][-3000:]
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.02)


def stopped(process, signum, when):
    """What it said, having been told to stop once something holds."""
    until(process, when)
    process.send_signal(signum)
    output = process.ended(128 + signum, timeout=60)
    assert "Traceback" not in output, output[-3000:]
    return output


def test_two_processes_end_together(qwen, clips, tmp_path):
    process = Run(ask("predict", qwen, clips, tmp_path, *TWO))
    stopped(process, signal.SIGTERM, lambda: len(lines(tmp_path, "part-*.jsonl")) >= 3)
    present = lines(tmp_path, "part-*.jsonl")
    assert len({row["id"] for row in present}) == len(present) < 24
    assert cli.main(ask("predict", qwen, clips, tmp_path)) == 0
    rows = lines(tmp_path, "predictions.jsonl")
    assert len(rows) == len({row["id"] for row in rows}) == 24 and not list(tmp_path.glob("part-*"))


def test_a_process_that_waits_for_the_others_ends_too(qwen, clips, tmp_path):
    """The second one has asked all its questions, and the first one is stopped within its own."""
    process = Run(ask("predict", qwen, clips, tmp_path, *TWO))
    until(process, lambda: lines(tmp_path, "part-0.jsonl"))
    process.send_signal(signal.SIGSTOP)
    until(process, lambda: len(lines(tmp_path, "part-1.jsonl")) == 12)
    time.sleep(0.5)  # it waits now
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    assert "Traceback" not in process.ended(143, timeout=PATIENCE / 2)
    assert len(lines(tmp_path, "part-*.jsonl")) < 24


def test_a_run_of_one_process_waits_for_no_other_programs(monkeypatch):
    """As within a harness that has started a group of its own, whose other processes run something else."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "barrier", lambda **_: pytest.fail("it waits"))
    wait_for_others(Trainer(accelerator="cpu", logger=False, enable_checkpointing=False))


def test_slurm_is_asked_to_put_the_job_back(qwen, clips, tmp_path):
    tools, asked = tmp_path / "bin", tmp_path / "asked"
    tools.mkdir()
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    (tools / "scontrol").chmod(0o755)
    job = {"SLURM_JOB_ID": "77", "PATH": f"{tools}:{os.environ['PATH']}"}
    process = Run(ask("predict", qwen, clips, tmp_path / "out"), **job)
    output = stopped(process, signal.SIGUSR1, lambda: len(lines(tmp_path / "out")) >= 3)
    assert asked.read_text() == "requeue 77\n" and "job 77 is in the queue again" in output
