"""Kill shards at random moments, resume and merge them: the rows must be those of one run.

python -m bench.shards --shards 8        some minutes on two cores

Runs `validate` on the demo's model over rendered videos: once as a whole, then as shards, two at a time. Each shard is
sent SIGKILL twice, each time after a random number of its rows and a random part of a second more; then it is called
until it ends. All shards are merged. Rows are compared without their timings, results.json byte by byte.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bench.kills import check_lines, start
from bench.measure import write_result
from datamodules.needles import write_needle_videos

ROUNDS, QUESTIONS = 2, 8  # kills of each shard, questions about each video


def rows(folder: Path) -> list[dict]:
    """Read predictions in the order of the file, without their timings."""
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "timings"} for line in lines]


def count_rows(out: Path) -> int:
    """Count the complete lines of predictions.jsonl."""
    file = out / "predictions.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def kill_after(words: list[str], out: Path, count: int, more: float) -> bool:
    """Start a shard's run, and kill it once it has so many rows, some seconds later; return whether it was running."""
    process = start(words, out)
    while process.poll() is None and count_rows(out) < count:
        time.sleep(0.002)
    time.sleep(more)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def run_shard(words: list[str], folder: Path, kills: list[tuple[int, float]]) -> dict[str, int]:
    """Kill a shard's run several times, then run it to its end.

    Returns:
        How often it was killed, how many rows it had before the last call, and how many at its end.
    """
    folder.mkdir(parents=True)
    out, killed = folder / "out", 0
    for count, more in kills:
        killed += kill_after(words, out, count, more)
        check_lines(out)
    before = count_rows(out)
    if start(words, out).wait() != 0:
        raise RuntimeError(f"{folder.name} did not end: {(folder / 'output.txt').read_text()[-2000:]}")
    return {"killed": killed, "rows_before_the_last_call": before, "rows": count_rows(out)}


def main() -> None:
    """Run, kill, resume, merge, compare; print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--videos", type=int, default=16)
    parser.add_argument("--patches", type=int, default=256, help="half the frames of a video")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_needle_videos(folder / "videos", options.videos, options.patches, needles=4, questions=QUESTIONS, seed=3)
        words = ["validate", "--config", "configs/demo/self.yaml", "--trainer.enable_progress_bar", "false"]
        words += ["--data.annotations", str(folder / "videos" / "annotations.jsonl"), "--data.num_workers", "0"]
        folder_of_one = folder / "whole"
        folder_of_one.mkdir()
        assert start(words, folder_of_one / "out").wait() == 0, (folder_of_one / "output.txt").read_text()[-3000:]
        sharded = [[*words, "--data.shard", f"{i}/{options.shards}"] for i in range(1, options.shards + 1)]
        each = options.videos * QUESTIONS // options.shards
        counts = np.sort(rng.integers(0, each, (options.shards, ROUNDS)))
        more = rng.random((options.shards, ROUNDS)) * 0.1
        moments = [list(zip(row.tolist(), later.tolist())) for row, later in zip(counts, more)]
        with ThreadPoolExecutor(2) as pool:
            folders = [folder / "shards" / f"{i}" for i in range(1, options.shards + 1)]
            kills = list(pool.map(run_shard, sharded, folders, moments))
        merge = [sys.executable, "cli.py", "merge", *(str(one / "out") for one in folders)]
        subprocess.run([*merge, "--output_dir", str(folder / "merged" / "out")], check=True)
        one, merged = rows(folder_of_one / "out"), rows(folder / "merged" / "out")
        results = [(place / "out" / "results.json").read_bytes() for place in (folder_of_one, folder / "merged")]
        wrong = sum(left != right for left, right in zip(one, merged)) + abs(len(one) - len(merged))
        equal = results[0] == results[1]
    kills_in_all = sum(shard["killed"] for shard in kills)
    partly = sum(0 < shard["rows_before_the_last_call"] < shard["rows"] for shard in kills)
    sys.stdout.write(
        f"{options.shards} shards, {kills_in_all} kills, {partly} of them resumed in the middle: "
        f"{len(merged)} rows merged, {wrong} differ from one run; results.json {'equal' if equal else 'DIFFERS'}\n"
    )
    table = [{"rows": len(merged), "wrong": wrong, "results_equal": equal, "kills": kills}]
    write_result("shards", vars(options), table)
    sys.exit(bool(wrong or not equal))


if __name__ == "__main__":
    main()
