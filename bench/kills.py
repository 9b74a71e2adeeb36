"""Runs that are killed, or told to stop, at random moments, and gone on with: nothing lost, nothing doubled.

python -m bench.kills --times 20        about two hours on two cores

For predict, predict in two processes, validate and fit: SIGKILL and SIGTERM, so many times each, at moments evenly
spread over the last two thirds of an undisturbed run; before them it imports and loads. Every time: the exit status is
the signal's (or 0, if the run was done), no line of what was written is broken but the last, and the same command,
called again, ends with what the undisturbed run has: each question once with the same answer, or the same weights.
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

BEGUN = 1 / 3  # of a run: importing and loading
SIZES = '{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}'


def commands(videos: Path) -> dict[str, list[str]]:
    """What is run, by name, without its folder."""
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


def started(words: list[str], out: Path) -> subprocess.Popen:
    """In a process group of its own."""
    command = [sys.executable, "cli.py", *words, "--output_dir", str(out)]
    with (out.parent / "said.txt").open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)


def rows(out: Path) -> dict[str, tuple]:
    """Answers by question; raises where one is there twice."""
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_bytes().split(b"\n")[:-1]]
    result = {row["id"]: (row["answer"], row["error"], row.get("correct")) for row in lines}
    if len(result) != len(lines):
        raise AssertionError("a question is there twice")
    return result


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Of the trained selector."""
    checkpoint = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
    return {**checkpoint["state_dict"], "step": torch.tensor(checkpoint["global_step"])}


def whole_lines(out: Path) -> None:
    """Every line that was written is whole, but the last of a file."""
    for file in out.glob("*.jsonl"):
        for line in file.read_bytes().split(b"\n")[:-1]:
            json.loads(line)


def stopped(words: list[str], out: Path, signum: int, after: float) -> int:
    """Run, send the signal, and give the exit status."""
    process = started(words, out)
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
    """One run that is disturbed and gone on with: its status, and what was wrong, if anything was."""
    out = folder / "out"
    status = stopped(words, out, signum, after)
    allowed = (0, -signum) if signum == signal.SIGKILL else (0, -signum, 128 + signum)  # -15: not yet begun to run
    if status not in allowed:
        return status, f"ended with {status}"
    if out.exists():
        whole_lines(out)
    again = started(words, out).wait(300)
    if again != 0:
        return status, f"went on and ended with {again}"
    results = result(out)
    same = results.keys() == expected.keys() and all(
        bool((results[key] == expected[key]).all())
        if isinstance(expected[key], torch.Tensor)
        else results[key] == expected[key]
        for key in expected
    )
    return status, "" if same else "has another result"


def main() -> None:
    """Disturb runs, print what became of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=None, help="names of commands")
    arguments = parser.parse_args()
    rng, table = np.random.default_rng(arguments.seed), []
    about = {"seed": arguments.seed, "moments": "evenly spread over the last two thirds of an undisturbed run"}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_needle_videos(folder / "videos", videos=8, patches=64, needles=4, questions=8, seed=1)
        for name, words in commands(folder / "videos").items():
            if arguments.only and name not in arguments.only:
                continue
            result = weights if words[0] == "fit" else rows
            began = time.monotonic()
            assert started(words, folder / "whole").wait() == 0, (folder / "said.txt").read_text()[-3000:]
            length, expected = time.monotonic() - began, result(folder / "whole")
            shutil.rmtree(folder / "whole")
            for signum in (signal.SIGKILL, signal.SIGTERM):
                moments = (
                    BEGUN + (1 - BEGUN) * (np.arange(arguments.times) + rng.random(arguments.times)) / arguments.times
                ) * length
                trials = []
                for after in moments:
                    trials.append(trial(words, folder, signum, float(after), result, expected))
                    if trials[-1][1]:
                        sys.stdout.write(f"{name}, {signum.name} after {after:.2f} s: {trials[-1][1]}\n")
                    shutil.rmtree(folder / "out", ignore_errors=True)
                ended = {
                    str(status): sum(one == status for one, _ in trials) for status in sorted({s for s, _ in trials})
                }
                wrong = sum(bool(output) for _, output in trials)
                table.append(
                    {"command": name, "signal": signum.name, "times": arguments.times, "ended": ended, "wrong": wrong}
                )
                sys.stdout.write(
                    f"{name:22} {signum.name}  {arguments.times} times, ended with {ended}: {wrong} wrong\n"
                )
                sys.stdout.flush()
                write_result("kills", about, table)
    sys.exit(any(row["wrong"] for row in table))


if __name__ == "__main__":
    main()
