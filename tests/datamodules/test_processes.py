"""Workers: how many, with how many cores, and what they say when the run that they work for is stopped."""

import ast
import os
import socket
import sys
import threading
from multiprocessing import resource_sharer
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from datamodules.processes import start_worker
from datamodules.processor_cores import cores, workers
from datamodules.video import _threads

ROOT = Path(__file__).parents[2]


class Left:
    """Its worker hands something over to a process that has closed the connection, as a stopped one does."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        before, told = sys.excepthook, threading.Event()

        def hook(*error):
            before(*error)
            told.set()

        sys.excepthook = hook
        address, _ = resource_sharer.DupFd(os.pipe()[0])._id
        with socket.socket(socket.AF_UNIX) as reader:
            reader.connect(address)
        assert told.wait(60), "the thread met no closed connection"
        return index


@pytest.mark.parametrize(("function", "quiet"), [(start_worker, True), (None, False)], ids=["ours", "canary"])
def test_a_closed_connection_is_not_reported(capfd, function, quiet):
    assert list(DataLoader(Left(), batch_size=None, num_workers=1, worker_init_fn=function)) == [0]
    assert ("Traceback" in capfd.readouterr().err) is not quiet


def test_every_loader_with_workers_starts_them_so():
    loaders = 0
    for file in (ROOT / "datamodules").rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            given = {word.arg: ast.unparse(word.value) for word in getattr(call, "keywords", [])}
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("Loader") and "num_workers" in given:
                loaders += 1
                assert given.get("worker_init_fn") == "start_worker", f"{file}: {ast.unparse(call)}"
    assert loaders == 4


@pytest.mark.parametrize(
    ("allowed", "environment", "expected"),
    [
        (96, {}, 96),
        (8, {"SLURM_CPUS_PER_TASK": "8", "WORLD_SIZE": "16"}, 8),  # SLURM binds each process to its own
        (96, {"LOCAL_WORLD_SIZE": "8", "WORLD_SIZE": "16"}, 12),  # torchrun on two machines
        (96, {"WORLD_SIZE": "8"}, 12),  # Lightning's launcher
        (2, {"WORLD_SIZE": "8"}, 1),
    ],
)
def test_cores_are_shared(monkeypatch, allowed, environment, expected):
    for name in ("SLURM_CPUS_PER_TASK", "LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(allowed)))
    assert cores() == expected
    assert workers(None) == max(1, min(4, expected // 4)) and workers(0) == 0 and workers(7) == 7
    assert _threads() == max(1, min(8, expected))
