"""Runs of the command line in processes of their own, forked from one that has imported everything.

A start takes ten seconds of a processor, nearly all of them imports. What is tested comes after: signals, kills, files
that outlive a process. Where the launcher matters (DDP, torchrun, SLURM), `python cli.py` itself is started.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]


@cache
def server():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cli"])
    return context


class Run:
    """As `subprocess.Popen` of `python cli.py ...`, with what it says kept in files."""

    def __init__(self, arguments, **environment):
        self._said = tempfile.TemporaryDirectory()
        self._files = [Path(self._said.name) / name for name in ("stdout", "stderr")]
        words = [str(word) for word in arguments]
        given = words, {**os.environ, **environment}, [str(file) for file in self._files]
        self._process = server().Process(target=_run, args=given)
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def wait(self, timeout=300):
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"it did not end in {timeout} s:\n{self.said()[1][-3000:]}"
        return self._process.exitcode

    def communicate(self, timeout=300):
        self.wait(timeout)
        return self.said()

    def said(self):
        """Standard output and error so far."""
        return tuple(file.read_text() if file.exists() else "" for file in self._files)

    def send_signal(self, signum):
        os.kill(self.pid, signum)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def _run(words, environment, files):
    os.setsid()
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, file in zip((1, 2), files):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    multiprocessing.set_start_method("fork", force=True)  # workers as in a process that was started by its command
    import cli

    sys.argv = ["cli.py", *words]
    cli.run()
