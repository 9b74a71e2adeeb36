"""What a worker says when the run that it works for is stopped."""

import ast
import os
import socket
import time
from multiprocessing import resource_sharer
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from datamodules.processes import start_worker

ROOT = Path(__file__).parents[2]


class Left:
    """Its worker hands something over to a process that has closed the connection, as a stopped one does."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        address, _ = resource_sharer.DupFd(os.pipe()[0])._id
        with socket.socket(socket.AF_UNIX) as reader:
            reader.connect(address)
        time.sleep(0.5)  # until the thread meets the closed connection
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
