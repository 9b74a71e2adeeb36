"""Announced needles: a whole look at full resolution, and a first look at every eighth unit in frames of one token.

    python -m bench.announced

The whole look answers from 5 % of its tokens. Of the first look the table says how well it answers alone, and how its
units rank by prominence: whether the first one shows a dot or shape of the needle in question ("top"), which share of
these needles is among the first 30 units ("found"), and at which place the last of them comes ("rank"). Chance is 1/6
for a shape, 1/8 for a colour, 1/2 for which came first.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from bench.measure import write_result
from datamodules.announced_needles import write_announced_videos
from datamodules.video import read_video
from flexselect import FlexSelect
from flexselect.evidence.moments import prominence
from flexselect.storage.json_lines import read_json_lines

MODEL = "checkpoints/demo/two_looks"
KINDS = ("colour", "shape", "first")
STRIDE = 8  # units between those of a first look
SHARE = 0.05  # of the tokens are kept
TOP = 30  # units of a first look
SMALL = 28 * 28  # pixels of its frames


def read(path: Path, units: Iterable[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Read units of a video: frames uint8 [2u, 84, 84, 3], and their seconds."""
    numbers = [2 * unit + i for unit in units for i in range(2)]
    frames, _ = read_video(path, lambda *_: numbers, lambda frames: frames)
    return frames, torch.tensor(numbers) / 2


def dots(row: dict[str, Any], patches: int) -> list[set[int]]:
    """List, for each needle in question, the units of a first look in which its dot or shape is visible."""
    looked = range(0, patches, STRIDE)
    return [{i for i, unit in enumerate(looked) if begin < unit + 1 and unit < end} for begin, end in row["announced"]]


def ask(looks: dict[str, FlexSelect], file: Path, rows: list[dict], patches: int) -> list[dict[str, Any]]:
    """Ask the questions about one video in both looks."""
    whole = looks["whole"].open(*read(file, range(patches)), keep="scores_kv", progress=False)
    first = looks["first"].open(*read(file, range(0, patches, STRIDE)), keep="scores_kv", progress=False)
    units, results = len(range(0, patches, STRIDE)), []
    for row in rows:
        right = [session.ask(row["question"], 4).text == row["answer"] for session in (whole, first)]
        best = prominence(first.select(row["question"]), units)[0].argsort(descending=True).tolist()
        shown = dots(row, patches)
        results.append({
            "kind": row["kind"],
            "whole": right[0],
            "first": right[1],
            "shape_seen": any(m[0] < u + 1 and u < m[1] for m in row["moments"] for u in range(0, patches, STRIDE)),
            "top": best[0] in set().union(*shown),
            "found": statistics.mean(bool(units & {*best[:TOP]}) for units in shown),
            "rank": max(min(best.index(unit) for unit in units) for units in shown),
        })  # fmt: skip
    return results


def main() -> None:
    """Print a line per kind of question and write all lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--videos", type=int, default=4)
    parser.add_argument("--patches", type=int, default=256)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--false", type=int, default=4)
    parser.add_argument("--layer", type=int)
    options = parser.parse_args()
    disable_progress_bar()
    how: dict[str, Any] = {"selector": "self", "dtype": "float32", "device": "cpu", "reference_layer": options.layer}
    how["positions"] = "compact" if options.patches > 512 else "original"  # training has shown positions up to 1,200
    tokens = 9 * options.patches, len(range(0, options.patches, STRIDE))
    looks = {
        "whole": FlexSelect.from_pretrained(options.model, budget=int(SHARE * tokens[0]), **how),
        "first": FlexSelect.from_pretrained(options.model, budget=tokens[1], max_pixels=SMALL, **how),
    }
    results = []
    with tempfile.TemporaryDirectory() as place:
        numbers = {"videos": options.videos, "patches": options.patches, "seed": options.seed, "false": options.false}
        table = write_announced_videos(place, questions=12, kinds=KINDS, **numbers)
        rows, _ = read_json_lines(table)
        for name in sorted({row["video"] for row in rows}):
            asked = [row for row in rows if row["video"] == name]
            results += ask(looks, Path(place, name), asked, options.patches)
    lines = []
    for kind in KINDS:
        of_kind = [result for result in results if result["kind"] == kind]
        means = {name: round(float(np.mean([r[name] for r in of_kind])), 3) for name in of_kind[0] if name != "kind"}
        lines.append({"kind": kind, "questions": len(of_kind), **means})
        print("  ".join(f"{name} {value}" for name, value in lines[-1].items()), flush=True)
    write_result(f"announced_{options.patches}", vars(options), lines)


if __name__ == "__main__":
    main()
