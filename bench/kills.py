"""Kill or stop runs at random moments and resume them: nothing may be lost or written twice.

python -m bench.kills --times 20        about two hours on two cores

For predict, predict in two processes, validate and fit: send SIGKILL and SIGTERM, `--times` times each. The moments are
evenly spread over the last two thirds of an undisturbed run; in the first third it imports and loads. Each time:

- The exit status is the signal's, or 0 if the run was already finished.
- Only the last line of an output file may be broken.
- The same command, called again, ends with the result of the undisturbed run: each question once with the same answer,
  or the same weights.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from bench.measure import write_result
from datamodules.needles import write_needle_videos

LOADING = 1 / 3  # share of a run that is spent on importing and loading
SIZES = '{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}'


def commands(videos: Path) -> dict[str, list[str]]:
    """Return the arguments of each command by its name, without the output folder."""
    table = ["--data.annotations", str(videos / "annotations.jsonl"), "--trainer.enable_progress_bar", "false"]
    ask = ["--config", "configs/demo/self.yaml", *table]
    fit = ["fit", "--config", "configs/demo/train_selector.yaml", *table, "--model.start", "null"]
    fit += [
        "--model.sizes",
        SIZES,
        "--data.val_annotations",
        str(videos / "annotations.jsonl"),
        "--data.batch_size",
        "4",
    ]
    fit += [
        "--trainer.max_epochs",
        "3",
        "--model.save_every",
        "4",
        "--family.max_frames",
        "8",
        "--data.num_workers",
        "1",
    ]
    return {
        "predict": ["predict", *ask],
        "predict, 2 processes": ["predict", *ask, "--trainer.devices", "2", "--trainer.strategy", "ddp"],
        "validate": ["validate", *ask],
        "fit": fit,
    }


def start(words: list[str], out: Path) -> subprocess.Popen:
    """Start a command in a new process group; its output goes to output.txt next to the output folder."""
    command = [sys.executable, "cli.py", *words, "--output_dir", str(out)]
    with (out.parent / "output.txt").open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)


def answers(out: Path) -> dict[str, tuple]:
    """Read the answers by question id.

    Raises:
        AssertionError: if a question was written twice.
    """
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_bytes().split(b"\n")[:-1]]
    by_id = {row["id"]: (row["answer"], row["error"], row.get("correct")) for row in rows}
    if len(by_id) != len(rows):
        raise AssertionError("a question was written twice")
    return by_id


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Read the weights of the trained selector and the number of steps."""
    checkpoint = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
    return {**checkpoint["state_dict"], "step": torch.tensor(checkpoint["global_step"])}


def check_lines(out: Path) -> None:
    """Check that every line of the output files is whole, except the last line of a file."""
    for file in out.glob("*.jsonl"):
        for line in file.read_bytes().split(b"\n")[:-1]:
            json.loads(line)


def run_and_stop(words: list[str], out: Path, signum: int, after: float) -> int:
    """Run a command, send the signal after some seconds, and return the exit status."""
    process = start(words, out)
    time.sleep(after)
    if process.poll() is None:
        if signum == signal.SIGKILL:
            os.killpg(process.pid, signum)
        else:
            process.send_signal(signum)
    return process.wait(120)


def trial(
    words: list[str], folder: Path, signum: int, after: float, result: Callable, expected: dict
) -> tuple[int, str]:
    """Stop one run and resume it.

    Args:
        words: the command's arguments.
        folder: the run writes into its subfolder `out`.
        signum: the signal that stops the run.
        after: seconds until the signal is sent.
        result: reads the result from the output folder.
        expected: the result of an undisturbed run.

    Returns:
        The exit status of the stopped run, and what was wrong: "" if nothing was.
    """
    out = folder / "out"
    status = run_and_stop(words, out, signum, after)
    allowed = (0, -signum) if signum == signal.SIGKILL else (0, -signum, 128 + signum)  # -15: no signal handler yet
    if status not in allowed:
        return status, f"ended with {status}"
    if out.exists():
        check_lines(out)
    resumed = start(words, out).wait(300)
    if resumed != 0:
        return status, f"the resumed run ended with {resumed}"
    actual = result(out)
    same = actual.keys() == expected.keys() and all(
        bool((actual[key] == expected[key]).all())
        if isinstance(expected[key], torch.Tensor)
        else actual[key] == expected[key]
        for key in expected
    )
    return status, "" if same else "has another result"


def main() -> None:
    """Stop and resume the runs of all commands; print how they ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=None, help="names of commands")
    options = parser.parse_args()
    rng, table = np.random.default_rng(options.seed), []
    settings = {"seed": options.seed, "moments": "evenly spread over the last two thirds of an undisturbed run"}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_needle_videos(folder / "videos", videos=8, patches=64, needles=4, questions=8, seed=1)
        for name, words in commands(folder / "videos").items():
            if options.only and name not in options.only:
                continue
            result = weights if words[0] == "fit" else answers
            began = time.monotonic()
            assert start(words, folder / "whole").wait() == 0, (folder / "output.txt").read_text()[-3000:]
            seconds, expected = time.monotonic() - began, result(folder / "whole")
            shutil.rmtree(folder / "whole")
            for signum in (signal.SIGKILL, signal.SIGTERM):
                spread = (np.arange(options.times) + rng.random(options.times)) / options.times  # from 0 to 1
                moments = (LOADING + (1 - LOADING) * spread) * seconds
                trials = []
                for after in moments:
                    trials.append(trial(words, folder, signum, float(after), result, expected))
                    if trials[-1][1]:
                        sys.stdout.write(f"{name}, {signum.name} after {after:.2f} s: {trials[-1][1]}\n")
                    shutil.rmtree(folder / "out", ignore_errors=True)
                statuses = [status for status, _ in trials]
                ended = {str(status): statuses.count(status) for status in sorted(set(statuses))}
                wrong = sum(bool(fault) for _, fault in trials)
                row = {"command": name, "signal": signum.name, "times": options.times, "ended": ended, "wrong": wrong}
                table.append(row)
                sys.stdout.write(f"{name:22} {signum.name}  {options.times} times, ended with {ended}: {wrong} wrong\n")
                sys.stdout.flush()
                write_result("kills", settings, table)
    sys.exit(any(row["wrong"] for row in table))


if __name__ == "__main__":
    main()
