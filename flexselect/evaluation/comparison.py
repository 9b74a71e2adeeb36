"""Two runs over the same questions, side by side, and whether one is better."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flexselect.evaluation.results import prediction_key, read_predictions, short_key, span
from flexselect.evaluation.statistics import interval, mcnemar, wilson
from flexselect.storage.run_settings import flat, read_object

SURE = 0.05  # a difference that chance gives more often is not called one


@dataclass(frozen=True)
class Pair:
    """Two runs on the questions that both have."""

    right: tuple[np.ndarray, np.ndarray]  # bool [n] each
    videos: list[str]
    p: float  # McNemar's exact test
    keys: list[tuple[str, str, str]]  # of the questions

    @property
    def difference(self) -> float:
        """Of the accuracies, first less second."""
        return float(self.right[0].mean() - self.right[1].mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % of the difference, whole videos drawn; of runs that never differ, by Wilson's of as many videos."""
        differences = self.right[0].astype(float) - self.right[1].astype(float)
        count = len(set(self.videos))
        if count > 1 and not differences.any():
            most = wilson(0.0, count)[1]
            return -most, most
        if count > 1 and (differences == -1).all():
            return -1.0, -wilson(1.0, count)[0]
        return interval(list(differences), self.videos)


def read_run(folder: Path) -> dict[str, Any]:
    """What `validate` wrote: `name`, `rows` that count by question, and `about`, its results.

    Raises:
        FileNotFoundError: naming a folder without results.
        ValueError: naming a file that is broken.
    """
    results = folder / "results.json"
    if not results.is_file():
        raise FileNotFoundError(f"{folder} holds no results.json: run `validate` with --output_dir {folder}")
    about = {"settings": {}, "fingerprint": {}, **read_object(results)}
    if not all(isinstance(about[name], dict) for name in ("settings", "fingerprint")):
        raise ValueError(f"{results} is damaged: its settings are none; run `validate` again")
    counted = {prediction_key(row): row for row in read_predictions(folder) if row.get("correct") is not None}
    if "asked" in about:  # version 0.1 did not say
        counted = {key: row for key, row in counted.items() if short_key(key) in about["asked"]}
    return {"name": folder.name, "folder": folder, "rows": counted, "about": about}


def paired(one: dict[str, Any], other: dict[str, Any]) -> Pair:
    """Two runs question by question.

    Raises:
        ValueError: if they share none.
    """
    shared = [key for key in one["rows"] if key in other["rows"]]
    if not shared:
        raise ValueError(f"{one['folder']} and {other['folder']} have no question in common")
    right = [np.array([run["rows"][key]["correct"] for key in shared], bool) for run in (one, other)]
    return Pair((right[0], right[1]), [key[1] for key in shared], mcnemar(list(right[0]), list(right[1])), shared)


def compare(one: str, other: str, flips: int = 20) -> str:
    """Compare what `validate` wrote.

    Args:
        one: folder of a run.
        other: folder of another run over the same questions.
        flips: list at most so many of the questions that one has right and the other wrong.

    Returns:
        Both accuracies on the questions that both answered, the difference with its 95 % bootstrap interval, McNemar's
        exact p-value, a verdict, the questions that they do not agree on, and the settings that differ.

    Raises:
        FileNotFoundError: naming a folder without results.
        ValueError: if they share no question.
    """
    runs = [read_run(Path(folder)) for folder in (one, other)]
    pair = paired(*runs)
    first, second = pair.right
    shared, videos = len(pair.keys), len(set(pair.videos))
    few = f"{videos} here" if videos > 1 else "and there is one: too few for an interval"
    common = [[run["rows"][key] for key in pair.keys] for run in runs]
    better = runs[0]["name"] if pair.difference > 0 else runs[1]["name"]
    alike = "both have the same questions right" if not (first != second).any() else ""
    chance = "no difference is shown: chance gives such a one too often"
    verdict = f"{better} is better" if pair.p < SURE else alike or chance
    lines = [
        _row("", *(run["name"] for run in runs)),
        _row("accuracy", *(f"{hits.mean():.3f} ({hits.sum()} of {shared})" for hits in pair.right)),
        _row("95 % interval", *(span(interval(list(hits), pair.videos)) for hits in pair.right)),
        _row("right here alone", str((first & ~second).sum()), str((second & ~first).sum())),
        _row("errors", *(str(sum(row["error"] is not None for row in rows)) for rows in common)),
        _row("unparsed", *(str(sum(map(_is_unparsed, rows))) for rows in common)),
        f"{shared} questions in common; difference {pair.difference:+.3f}, 95 % {span(pair.interval, '+.3f')}",
        f"McNemar's exact test: p = {pair.p:.4f}. {verdict}.",
        f"(All numbers are of these. The test counts single questions; the intervals draw whole videos, {few}.)",
    ]
    for run in runs:
        if len(run["rows"]) > shared:
            lines.append(f"left out: {len(run['rows']) - shared} questions that only {run['name']} has")
    changed = sum(ours.get("expected") != theirs.get("expected") for ours, theirs in zip(*common))
    if changed:
        lines.append(f"{changed} of the questions in common were judged by another expected answer")
    otherwise = sum(ours.get("prompt_hash") != theirs.get("prompt_hash") for ours, theirs in zip(*common))
    if otherwise:
        lines.append(f"{otherwise} of the questions in common were asked otherwise: other options, part or prompt")
    return "\n".join([*lines, *_flipped(runs, pair, flips), *_differing(runs)]) + "\n"


def _flipped(runs: list[dict[str, Any]], pair: Pair, most: int) -> list[str]:
    """Questions that one run has right and the other wrong, with both answers; the second run's gains last."""
    first, second = pair.right
    lines, count = [], int((first != second).sum())
    for run, here in ((runs[0], first & ~second), (runs[1], second & ~first)):
        for place in here.nonzero()[0]:
            key = pair.keys[place]
            answers = " / ".join(_shortened(one["rows"][key]) for one in runs)
            lines.append(f"  right in {run['name']} alone: {key[0]}  {key[1]}  {key[2][:60]!r}: {answers}")
    more = [f"  ... and {count - most} more; --flips {count} lists all"] if count > most else []
    title = f"{count} questions flipped (answers of {runs[0]['name']} / {runs[1]['name']}):"
    return [title, *lines[:most], *more] if count else []


def _shortened(row: dict[str, Any]) -> str:
    said = row["answer"] if row["error"] is None else f"error: {row['error']}"
    return repr(said[:40])


def _is_unparsed(row: dict[str, Any]) -> bool:
    return row.get("parsed") is None and row["error"] is None and bool(row.get("multiple_choice"))


def _row(name: str, one: str, other: str) -> str:
    return f"{name:22}{one:>24} {other:>24}"


def _differing(runs: list[dict[str, Any]]) -> list[str]:
    """Settings and fingerprints that are not the same in both."""
    about = [flat({name: run["about"][name] for name in ("settings", "fingerprint")}) for run in runs]
    names = [name for name in {**about[0], **about[1]} if about[0].get(name) != about[1].get(name)]
    return [_row(name.partition(".")[2], str(about[0].get(name)), str(about[1].get(name))) for name in names]
