"""Benchmarks as they are run: processes that share the work, a kill in the middle, features kept on disk."""

import json
import os
import signal
import time

import pytest

import cli
from tests import miniature
from tests.processes import TWO, Run
from tests.test_architecture import ROOT


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return miniature.videomme(tmp_path_factory.mktemp("videomme"))


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    """A run of one process to its end."""
    out = tmp_path_factory.mktemp("whole")
    os.chdir(ROOT)
    assert cli.main(words(root, out)) == 0
    return outcome(out)


def words(root, out, *more):
    """A validation of the miniature with the demo model."""
    data = ["--data", "datamodules.benchmarks.videomme.VideoMME", "--data.root", str(root), "--data.protocol", "plain"]
    quiet = ["--data.num_workers", "0", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
    return ["validate", "--config", "configs/demo/self.yaml", *data, *quiet, "--output_dir", str(out), *more]


def outcome(out):
    """Results, and each question's row without its times; every question just once."""
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    by_id = {row["id"]: {name: value for name, value in row.items() if name != "timings"} for row in rows}
    assert len(by_id) == len(rows) == 12 and not list(out.glob("part-*"))
    return json.loads((out / "results.json").read_text()), by_id


def test_torchrun_with_two_processes_equals_one(root, whole, tmp_path):
    """The launcher of several nodes; `--config configs/trainer/torchrun.yaml`."""
    Run(words(root, tmp_path, *TWO), torchrun=["--nproc_per_node", "2", "--master_port", "29611"]).ended()
    assert outcome(tmp_path) == whole


def test_slurm_with_two_tasks_equals_one(root, whole, tmp_path):
    """As srun starts them: Lightning reads rank and world from SLURM's variables."""
    slurm = {"SLURM_NTASKS": 2, "SLURM_NTASKS_PER_NODE": 2, "SLURM_JOB_ID": 4711, "SLURM_JOB_NAME": "validate"}
    slurm |= {"SLURM_NNODES": 1, "SLURM_NODEID": 0, "SLURM_NODELIST": "localhost", "MASTER_PORT": 29613}
    tasks = [
        {name: str(value) for name, value in (slurm | {"SLURM_PROCID": i, "SLURM_LOCALID": i}).items()}
        for i in range(2)
    ]
    for run in [Run(words(root, tmp_path, *TWO, "--trainer.num_nodes", "1"), **task) for task in tasks]:
        run.ended()
    assert outcome(tmp_path) == whole


def test_killed_in_the_middle_and_run_again(root, whole, tmp_path):
    """SIGKILL after the second answer of two processes; then one goes on. Each question once, the same results."""
    process = Run(words(root, tmp_path, *TWO))
    parts = lambda: [line for part in tmp_path.glob("part-*") for line in part.read_text().splitlines()]  # noqa: E731
    deadline = time.monotonic() + 200
    while len(parts()) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)  # both of them
    process.wait()
    assert process.returncode == -signal.SIGKILL and len(parts()) >= 2
    assert not (tmp_path / "results.json").exists()
    assert cli.main(words(root, tmp_path)) == 0
    assert outcome(tmp_path) == whole


def test_kept_features_are_neither_decoded_nor_encoded_again(root, whole, tmp_path, monkeypatch):
    """A second run, at another budget too, opens no video; the answers are the same."""
    cache = ["--model.feature_cache", str(tmp_path / "features")]
    assert cli.main(words(root, tmp_path / "first", *cache)) == 0
    assert len(list((tmp_path / "features").glob("*.safetensors"))) == 3

    def refused(*_):
        raise ValueError("a video is opened")

    monkeypatch.setattr("datamodules.question_data.stream_of_file", refused)
    monkeypatch.setattr("flexselect.families.base.VideoLM.vision_chunks", refused)
    assert cli.main(words(root, tmp_path / "second", *cache)) == 0
    assert outcome(tmp_path / "first") == outcome(tmp_path / "second") == whole
    assert cli.main(words(root, tmp_path / "third", *cache, "--model.budget", "7")) == 0
    assert cli.main(words(root, tmp_path / "fourth", *cache, "--family.max_frames", "8")) == 3  # others: canary


def test_two_processes_share_a_cache(root, whole, tmp_path):
    """Too small for all: what one deletes, the other encodes again."""
    cache = ["--model.feature_cache", str(tmp_path / "features"), "--model.feature_cache_gb", "0.00006"]
    for _ in range(2):
        for run in [Run(words(root, tmp_path / f"{i}", *cache)) for i in range(2)]:
            run.ended()
        for i in range(2):
            assert outcome(tmp_path / f"{i}") == whole
            for file in (tmp_path / f"{i}").iterdir():
                file.unlink()
    kept = sum(file.stat().st_size for file in (tmp_path / "features").iterdir())
    assert 0 < kept <= 60_000
