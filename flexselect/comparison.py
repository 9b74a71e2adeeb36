"""Two runs over the same questions, side by side, and whether one is better."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from flexselect.settings import flat
from flexselect.statistics import interval, mcnemar

SURE = 0.05  # a difference that chance gives more often is not called one


def compare(one: str, other: str) -> str:
    """Compare what `validate` wrote.

    Args:
        one: folder of a run.
        other: folder of another run over the same questions.

    Returns:
        Both accuracies on the questions that both answered, the difference with its 95 % bootstrap interval, McNemar's
        exact p-value, a verdict, and the settings that differ.

    Raises:
        FileNotFoundError: naming a folder without results.
        ValueError: if they share no question.
    """
    runs = [_read(Path(folder)) for folder in (one, other)]
    shared = [key for key in runs[0]["rows"] if key in runs[1]["rows"]]
    if not shared:
        raise ValueError(f"{one} and {other} have no question in common")
    right = [np.array([run["rows"][key]["correct"] for key in shared], bool) for run in runs]
    videos = [key[1] for key in shared]
    p = mcnemar(list(right[0]), list(right[1]))
    difference = right[0].astype(float) - right[1].astype(float)
    low, high = interval(list(difference), videos)
    names = [f"{run['name']:>24}" for run in runs]
    lines = [f"{'':22}{names[0]} {names[1]}", _row("accuracy", *(f"{hits.mean():.3f}" for hits in right))]
    lines.append(_row("95 % interval", *("{:.3f} to {:.3f}".format(*interval(list(hits), videos)) for hits in right)))
    only = ((right[0] & ~right[1]).sum(), (right[1] & ~right[0]).sum())
    lines.append(_row("right here alone", *map(str, only)))
    lines.append(
        f"{len(shared)} questions in common; difference {difference.mean():+.3f}, 95 % {low:+.3f} to {high:+.3f}"
    )
    better = runs[0] if difference.mean() > 0 else runs[1]
    verdict = f"{better['name']} is better" if p < SURE else "no difference is shown: chance gives such a one too often"
    lines.append(f"McNemar's exact test: p = {p:.4f}. {verdict}.")
    for run in runs:
        alone = len(run["rows"]) - len(shared)
        if alone:
            lines.append(f"left out: {alone} questions that only {run['name']} has")
    return "\n".join([*lines, *_differing(runs)]) + "\n"


def _read(folder: Path) -> dict[str, Any]:
    results = folder / "results.json"
    if not results.is_file():
        raise FileNotFoundError(f"{folder} holds no results.json: run `validate` with --output_dir {folder}")
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    counted = {(row["id"], row["video"], row["question"]): row for row in rows if row.get("correct") is not None}
    return {"name": folder.name, "rows": counted, "about": json.loads(results.read_text())}


def _row(name: str, one: str, other: str) -> str:
    return f"{name:22}{one:>24} {other:>24}"


def _differing(runs: list[dict[str, Any]]) -> list[str]:
    """Settings and fingerprints that are not the same in both."""
    about = [flat({name: run["about"][name] for name in ("settings", "fingerprint")}) for run in runs]
    names = [name for name in {**about[0], **about[1]} if about[0].get(name) != about[1].get(name)]
    return [_row(name.partition(".")[2], str(about[0].get(name)), str(about[1].get(name))) for name in names]
