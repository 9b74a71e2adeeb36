"""Runs of the command line in processes of their own, forked from one that has imported everything.

A start takes ten seconds of a processor, nearly all of them imports. What is tested comes after: signals, kills, files
that outlive a process, launchers and DDP.
"""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[1]
PRELOADED = (  # cli.py imports them when a verb needs them
    "lightning_modules.command_line.trainer_verbs",
    "lightning_modules.selector_training",
    "datamodules.selector_training",
    "datamodules.needle_clips",
    "datamodules.video_qa",
    "flexselect.pipeline",
    "flexselect.commands.command_texts",
    "flexselect.commands.experiment",
    "torch.distributed.run",
    "transformers.models.auto.modeling_auto",
)
TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp")  # options of a run in two processes


@cache
def server():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


class Run:
    """`python cli.py ...` as `subprocess.Popen` starts it, or as torchrun does; what it says goes to files."""

    def __init__(self, arguments, torchrun=None, **environment):
        self._said = tempfile.TemporaryDirectory()
        self._files = [Path(self._said.name) / name for name in ("stdout", "stderr")]
        words = [str(word) for word in arguments]
        files = [str(file) for file in self._files]
        self._process = server().Process(target=_run, args=(words, {**os.environ, **environment}, files, torchrun))
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

    def ended(self, status=0, timeout=300):
        """Wait for the end, which must have this status; return what went to standard error."""
        assert self.wait(timeout) == status, self.said()[1][-3000:]
        return self.said()[1]

    def said(self):
        """Standard output and error so far."""
        return tuple(file.read_text() if file.exists() else "" for file in self._files)

    def send_signal(self, signum):
        os.kill(self.pid, signum)

    def kill(self):
        self.send_signal(signal.SIGKILL)


class Spare:
    """A fork that waits until a launcher starts it: to the launcher it is a `subprocess.Popen` of the same command."""

    def __init__(self, earlier):
        self.returncode = None
        self._read, self._write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            for spare in (*earlier, self):
                os.close(spare._write)  # a pipe ends when nobody can write to it

    def start(self, command, env=None, start_new_session=False, **_):
        with os.fdopen(self._write, "w") as pipe:
            json.dump([command, env, start_new_session], pipe)
        return self

    def started(self):
        """In the fork: its words, once there are some. It ends with the process that might have started it."""
        with os.fdopen(self._read) as pipe:
            text = pipe.read()
        if not text:
            os._exit(0)
        command, env, start_new_session = json.loads(text)
        if start_new_session:
            os.setsid()
        os.environ.clear()
        os.environ.update(env)
        return command[next(i for i, word in enumerate(command) if word.endswith("cli.py")) + 1 :]

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout=300):
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("cli.py", timeout)
            time.sleep(0.01)
        return self.returncode

    def send_signal(self, signum):
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def _launchers(spares):
    """Let Lightning's launcher and torchrun take spares instead of starting Python."""
    from lightning.pytorch.strategies.launchers import subprocess_script
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    def start(args, **options):
        return spares.pop(0).start(args, **options)

    subprocess_script.subprocess = SimpleNamespace(Popen=start)
    subprocess_handler.Popen = start


def copy_tree(folder, left_out):
    """Copy the files that git knows into a folder, without those whose names begin with one of `left_out`."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in listed:
        if not name.startswith(left_out) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def run_copy(code, folder):
    """Run code with the packages of a copy of this project, in a folder; return its exit status and what it said."""
    file = Path(folder) / "said.txt"
    process = server().Process(target=_run_copy, args=(code, str(folder), str(file)))
    process.start()
    process.join(300)
    return process.exitcode, file.read_text()


def _run_copy(code, folder, file):
    os.chdir(folder)
    _say_to([file, file])
    for name in list(sys.modules):
        path = getattr(sys.modules[name], "__file__", None) or ""
        if path.startswith(f"{ROOT}/") and not path.startswith(f"{ROOT}/.venv"):
            del sys.modules[name]
    sys.path[:] = [folder, *(path for path in sys.path if Path(path or folder).resolve() != ROOT)]
    sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(finder)]
    exec(compile(code, "code", "exec"), {"__name__": "code"})


def _say_to(files):
    for descriptor, file in zip((1, 2), files):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)


def _run(words, environment, files, torchrun):
    os.setsid()
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    _say_to(files)
    multiprocessing.set_start_method("fork", force=True)  # workers as in a process that was started by its command
    import cli

    devices = int(words[words.index("--trainer.devices") + 1]) if "--trainer.devices" in words else 1
    spares = []
    for _ in range(devices if torchrun else devices - 1):
        spares.append(Spare(spares))
        if spares[-1].pid == 0:
            words, torchrun = spares[-1].started(), None
            break
    else:
        _launchers(spares)
    if torchrun:
        from torch.distributed.run import main

        return main([*torchrun, "cli.py", *words])
    sys.argv = ["cli.py", *words]
    cli.run()
