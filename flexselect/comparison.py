"""Two runs over the same questions, side by side, and whether one is better."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flexselect.results import prediction_key, span
from flexselect.settings import flat
from flexselect.statistics import interval, mcnemar

SURE = 0.05  # a difference that chance gives more often is not called one


@dataclass(frozen=True)
class Pair:
    """Two runs on the questions that both have."""

    right: tuple[np.ndarray, np.ndarray]  # bool [n] each
    videos: list[str]
    p: float  # McNemar's exact test

    @property
    def difference(self) -> float:
        """Of the accuracies, first less second."""
        return float(self.right[0].mean() - self.right[1].mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % of the difference, whole videos drawn."""
        return interval(list(self.right[0].astype(float) - self.right[1].astype(float)), self.videos)


def read_run(folder: Path) -> dict[str, Any]:
    """What `validate` wrote: `name`, `rows` that count by question, and `about`, its results.

    Raises:
        FileNotFoundError: naming a folder without results.
    """
    results = folder / "results.json"
    if not results.is_file():
        raise FileNotFoundError(f"{folder} holds no results.json: run `validate` with --output_dir {folder}")
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    counted = {prediction_key(row): row for row in rows if row.get("correct") is not None}
    return {"name": folder.name, "rows": counted, "about": json.loads(results.read_text())}


def paired(one: dict[str, Any], other: dict[str, Any]) -> Pair:
    """Two runs question by question.

    Raises:
        ValueError: if they share none.
    """
    shared = [key for key in one["rows"] if key in other["rows"]]
    if not shared:
        raise ValueError(f"{one['name']} and {other['name']} have no question in common")
    right = [np.array([run["rows"][key]["correct"] for key in shared], bool) for run in (one, other)]
    return Pair((right[0], right[1]), [key[1] for key in shared], mcnemar(list(right[0]), list(right[1])))


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
    runs = [read_run(Path(folder)) for folder in (one, other)]
    pair = paired(*runs)
    (first, second), (low, high) = pair.right, pair.interval
    spans = (span(interval(list(hits), pair.videos)) for hits in pair.right)
    better = runs[0]["name"] if pair.difference > 0 else runs[1]["name"]
    verdict = f"{better} is better" if pair.p < SURE else "no difference is shown: chance gives such a one too often"
    lines = [
        _row("", *(run["name"] for run in runs)),
        _row("accuracy", *(f"{hits.mean():.3f}" for hits in pair.right)),
        _row("95 % interval", *spans),
        _row("right here alone", str((first & ~second).sum()), str((second & ~first).sum())),
        *(_row(name, *(str(run["about"][name]) for run in runs)) for name in ("errors", "unparsed")),
        f"{len(first)} questions in common; difference {pair.difference:+.3f}, 95 % {low:+.3f} to {high:+.3f}",
        f"McNemar's exact test: p = {pair.p:.4f}. {verdict}.",
        f"(The test counts single questions; the interval draws whole videos, {len(set(pair.videos))} here.)",
    ]
    for run in runs:
        if len(run["rows"]) > len(first):
            lines.append(f"left out: {len(run['rows']) - len(first)} questions that only {run['name']} has")
    return "\n".join([*lines, *_differing(runs)]) + "\n"


def _row(name: str, one: str, other: str) -> str:
    return f"{name:22}{one:>24} {other:>24}"


def _differing(runs: list[dict[str, Any]]) -> list[str]:
    """Settings and fingerprints that are not the same in both."""
    about = [flat({name: run["about"][name] for name in ("settings", "fingerprint")}) for run in runs]
    names = [name for name in {**about[0], **about[1]} if about[0].get(name) != about[1].get(name)]
    return [_row(name.partition(".")[2], str(about[0].get(name)), str(about[1].get(name))) for name in names]
