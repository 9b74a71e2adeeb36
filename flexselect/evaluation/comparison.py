"""Compare two runs over the same questions, and test whether one is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flexselect.evaluation.costs import COLUMNS, mean_cost
from flexselect.evaluation.grounding import summarise_grounding
from flexselect.evaluation.results import format_interval, prediction_key, read_predictions, short_key, shown_answer
from flexselect.evaluation.statistics import interval, mcnemar, wilson
from flexselect.storage.run_settings import flatten_settings, read_json_object

SIGNIFICANCE = 0.05  # p-value from which a difference counts as chance


@dataclass(frozen=True)
class PairedRuns:
    """Two runs, on the questions that both have."""

    right: tuple[np.ndarray, np.ndarray]  # bool [n] for each run: whether the answer is right
    videos: list[str]  # video of each question
    p: float  # p-value of McNemar's exact test
    keys: list[tuple[str, str, str]]  # key of each question

    @property
    def difference(self) -> float:
        """Accuracy of the first run minus accuracy of the second."""
        return float(self.right[0].mean() - self.right[1].mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the difference over whole videos; Wilson's if all questions differ equally."""
        differences = self.right[0].astype(float) - self.right[1].astype(float)
        count = len(set(self.videos))
        if count > 1 and not differences.any():
            most = wilson(0.0, count)[1]
            return -most, most
        if count > 1 and (differences == -1).all():
            return -1.0, -wilson(1.0, count)[0]
        return interval(list(differences), self.videos)


def read_run(folder: Path) -> dict[str, Any]:
    """Read what `validate` wrote.

    Returns:
        `name` and `folder` of the run, `rows`: the predictions that count, by key of the question, and `about`: the
        content of results.json.

    Raises:
        FileNotFoundError: naming the folder, if it has no results.
        ValueError: naming the file, if it is broken.
    """
    results = folder / "results.json"
    if not results.is_file():
        raise FileNotFoundError(f"{folder} holds no results.json: run `validate` with --output_dir {folder}")
    about = {"settings": {}, "fingerprint": {}, **read_json_object(results)}
    if not all(isinstance(about[name], dict) for name in ("settings", "fingerprint")):
        raise ValueError(f"{results} is damaged: its settings are not an object; run `validate` again")
    counted = {prediction_key(row): row for row in read_predictions(folder) if row.get("correct") is not None}
    if "asked" in about:  # version 0.1 did not write this
        counted = {key: row for key, row in counted.items() if short_key(key) in about["asked"]}
    return {"name": folder.name, "folder": folder, "rows": counted, "about": about}


def pair_runs(one: dict[str, Any], other: dict[str, Any]) -> PairedRuns:
    """Pair two runs question by question.

    Raises:
        ValueError: if they have no question in common.
    """
    shared = [key for key in one["rows"] if key in other["rows"]]
    if not shared:
        raise ValueError(f"{one['folder']} and {other['folder']} have no question in common")
    right = [np.array([run["rows"][key]["correct"] for key in shared], bool) for run in (one, other)]
    return PairedRuns((right[0], right[1]), [key[1] for key in shared], mcnemar(list(right[0]), list(right[1])), shared)


def compare(one: str, other: str, flips: int = 20) -> str:
    """Compare the results that `validate` wrote for two runs.

    Args:
        one: folder of a run.
        other: folder of another run over the same questions.
        flips: maximum number of listed questions that one run has right and the other wrong.

    Returns:
        Both accuracies on the questions that both runs answered, the difference with its 95 % bootstrap interval,
        McNemar's exact p-value, a verdict, mean IoU and pointing where moments are annotated, mean frames and TFLOP
        per question, the questions with different outcomes with the moments that the answers come from, and the
        settings that differ.

    Raises:
        FileNotFoundError: naming the folder, if it has no results.
        ValueError: if the runs have no question in common.
    """
    runs = [read_run(Path(folder)) for folder in (one, other)]
    pair = pair_runs(*runs)
    first, second = pair.right
    shared, videos = len(pair.keys), len(set(pair.videos))
    number = f"there are {videos}" if videos > 1 else "there is one: too few for an interval"
    common = [[run["rows"][key] for key in pair.keys] for run in runs]
    better = runs[0]["name"] if pair.difference > 0 else runs[1]["name"]
    equal = "both have the same questions right" if not (first != second).any() else ""
    chance = "no difference is shown: chance gives a difference like this too often"
    verdict = f"{better} is better" if pair.p < SIGNIFICANCE else equal or chance
    interval_of_difference = format_interval(pair.interval, "+.3f")
    lines = [
        _row("", *(run["name"] for run in runs)),
        _row("accuracy", *(f"{hits.mean():.3f} ({hits.sum()} of {shared})" for hits in pair.right)),
        _row("95 % interval", *(format_interval(interval(list(hits), pair.videos)) for hits in pair.right)),
        _row("only this run right", str((first & ~second).sum()), str((second & ~first).sum())),
        _row("errors", *(str(sum(row["error"] is not None for row in rows)) for rows in common)),
        _row("unparsed", *(str(sum(map(_is_unparsed, rows))) for rows in common)),
        *_grounding_rows(common),
        *_cost_rows(common),
        f"{shared} questions in common; difference {pair.difference:+.3f}, 95 % {interval_of_difference}",
        f"McNemar's exact test: p = {pair.p:.4f}. {verdict}.",
        f"(All numbers are for these questions. The test counts questions, the intervals resample videos; {number}.)",
    ]
    for run in runs:
        if len(run["rows"]) > shared:
            lines.append(f"left out: {len(run['rows']) - shared} questions that only {run['name']} has")
    changed = sum(a.get("expected") != b.get("expected") for a, b in zip(*common))
    if changed:
        lines.append(f"{changed} of the questions in common were judged by another expected answer")
    reworded = sum(a.get("prompt_hash") != b.get("prompt_hash") for a, b in zip(*common))
    if reworded:
        lines.append(f"{reworded} of the questions in common were asked differently: other options, part or prompt")
    return "\n".join([*lines, *_list_flips(runs, pair, flips), *_list_differences(runs)]) + "\n"


def _grounding_rows(common: Sequence[list[dict[str, Any]]]) -> list[str]:
    """Compare the first moments with the annotated ones, if the questions have annotated moments."""
    results = [summarise_grounding(rows) for rows in common]
    kept = [result for result in results if result is not None]
    if len(kept) < len(results):
        return []
    entries = {"mIoU of moments": [result["miou"] for result in kept], "pointing": [one["pointing"] for one in kept]}
    return [_row(name, *(f"{entry['mean']:.3f}" for entry in values)) for name, values in entries.items()]


def _cost_rows(common: Sequence[list[dict[str, Any]]]) -> list[str]:
    """Compare what a question costs; no lines if neither run says it, as in earlier versions."""
    costs = [mean_cost(rows) for rows in common]
    if costs == [None, None]:
        return []
    return [_row(f"{name} a question", *map(form, costs)) for name, form in COLUMNS.items()]


def _list_flips(runs: list[dict[str, Any]], pair: PairedRuns, most: int) -> list[str]:
    """List the questions that only one run has right, with both answers: first those of the first run."""
    first, second = pair.right
    lines, count = [], int((first != second).sum())
    for run, is_gain in ((runs[0], first & ~second), (runs[1], second & ~first)):
        for i in is_gain.nonzero()[0]:
            key = pair.keys[i]
            answers = " / ".join(_shorten(either["rows"][key]) for either in runs)
            lines.append(f"  right in {run['name']} alone: {key[0]}  {key[1]}  {key[2][:60]!r}: {answers}")
    more = [f"  ... and {count - most} more; --flips {count} lists all"] if count > most else []
    title = f"{count} questions flipped (answers of {runs[0]['name']} / {runs[1]['name']}):"
    return [title, *lines[:most], *more] if count else []


def _shorten(row: dict[str, Any]) -> str:
    """Format a row's answer, with the moment that it comes from."""
    text = repr(row["answer"][:40]) if row["answer"] else shown_answer(row)
    if row["error"] is not None:
        return repr(f"error: {text}"[:40])
    moment = next(iter(row.get("moments") or ()), None)
    return f"{text} ({moment['start']:g}-{moment['end']:g} s)" if moment else text


def _is_unparsed(row: dict[str, Any]) -> bool:
    return row.get("parsed") is None and row["error"] is None and bool(row.get("multiple_choice"))


def _row(name: str, one: str, other: str) -> str:
    return f"{name:22}{one:>24} {other:>24}"


def _list_differences(runs: list[dict[str, Any]]) -> list[str]:
    """List the settings and fingerprints that differ between the runs."""
    values = [flatten_settings({name: run["about"][name] for name in ("settings", "fingerprint")}) for run in runs]
    names = [name for name in {**values[0], **values[1]} if values[0].get(name) != values[1].get(name)]
    return [_row(name.partition(".")[2], str(values[0].get(name)), str(values[1].get(name))) for name in names]
