"""What a validation found, from its predictions: accuracies with intervals, by group, in plain types and as a table."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from flexselect.settings import flat
from flexselect.statistics import accuracy, interval

log = logging.getLogger(__name__)


def summarise(rows: Sequence[dict[str, Any]], macro: str | None = None) -> dict[str, Any]:
    """Results of all predictions that count.

    Args:
        rows: predictions with `correct` (None: does not count), `video`, `parsed`, `groups`, `error`.
        macro: the group whose shares are averaged into `accuracy`; None: all questions count alike.

    Returns:
        `accuracy` with its 95 % `interval`; `micro_accuracy`; counts of `questions`, `errors`, rows without a question
        or an answer to compare with (`uncounted`, errors too), answers without a letter (`unparsed`); and `groups`:
        accuracy, interval and questions by name and value.
    """
    counted = [row for row in rows if row["correct"] is not None]
    of_group = [row["groups"].get(macro, "") for row in counted] if macro else None
    names = list(dict.fromkeys(name for row in counted for name in row["groups"]))
    values = {name: sorted({row["groups"][name] for row in counted if name in row["groups"]}) for name in names}
    whole = _share(counted, of_group)
    return {
        "accuracy": whole["accuracy"],
        "interval": whole["interval"],
        "micro_accuracy": _share(counted)["accuracy"],
        "questions": len(rows),
        "errors": sum(row["error"] is not None for row in rows),
        "uncounted": len(rows) - len(counted),
        "unparsed": sum(row["parsed"] is None and row["error"] is None and row["multiple_choice"] for row in counted),
        "groups": {
            name: {
                value: _share([row for row in counted if row["groups"].get(name) == value]) for value in values[name]
            }
            for name in names
        },
    }


def prediction_key(row: dict[str, Any]) -> tuple[str, str, str]:
    """Which question a prediction answers, as `VideoQuestion.key`."""
    return row["id"], row["video"], row["question"]


def read_predictions(folder: Path) -> list[dict[str, Any]]:
    """All predictions in a folder, the last one of each question; a line cut short by a kill is left out."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for file in [folder / "predictions.jsonl", *sorted(folder.glob("part-*.jsonl"))]:
        for line in file.read_text().splitlines() if file.exists() else []:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                log.warning("%s: a line that was cut short is left out; its question is asked again", file)
                continue
            rows[prediction_key(row)] = row
    return list(rows.values())


def videos_seen(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What was looked at of each video that was answered about: `frames`, `fps`, `grid`, `visual_tokens`."""
    return {
        row["video"]: {**(row.get("sampling") or {}), "visual_tokens": row["num_visual_tokens"]}
        for row in rows
        if row["error"] is None
    }


def ranges(videos: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Least and most of each number over all videos; None where none is known."""
    found: dict[str, list[float]] = {"frames": [], "fps": [], "units": [], "visual_tokens": []}
    for video in videos:
        known = {**video, "units": video["grid"][0] if "grid" in video else None}
        for name, values in found.items():
            if known.get(name) is not None:
                values.append(known[name])
    return {name: [min(values), max(values)] if values else None for name, values in found.items()}


def table(results: dict[str, Any], title: str) -> str:
    """Results as a Markdown table."""
    lines = [f"# {title}", "", "| | accuracy | 95 % interval | questions |", "|---|---|---|---|"]
    lines.append(_line("**all**", results))
    for name, values in results["groups"].items():
        lines += [_line(f"{name}: {value}", share) for value, share in values.items()]
    settings, known = flat(results.get("settings", {})), results.get("fingerprint", {})
    unread = "count as a letter drawn by chance" if settings.get("unparsed") == "random" else "count as wrong"
    notes = f"{wrong(results)}; {results['unparsed']} answers without a letter {unread}."
    about = {**settings, **{name: value for name, value in known.items() if not isinstance(value, dict)}}
    said = [f"- {name}: {value}" for name, value in about.items() if value is not None]
    return "\n".join([*lines, "", notes, "", *said, ""])


def wrong(results: dict[str, Any]) -> str:
    """What became of the errors."""
    uncounted = results.get("uncounted", 0)
    left_out = f"; {uncounted} rows without a question or an answer do not count" if uncounted else ""
    return f"{results['errors'] - uncounted} errors count as wrong{left_out}"


def _share(rows: Sequence[dict[str, Any]], groups: Sequence[str] | None = None) -> dict[str, Any]:
    right = [bool(row["correct"]) for row in rows]
    by_group: dict[str, list[bool]] = {}
    for group, hit in zip(groups or [""] * len(right), right):
        by_group.setdefault(group, []).append(hit)
    found = accuracy(by_group, macro=groups is not None)
    low, high = interval(right, [row["video"] for row in rows], groups)
    known = not math.isnan(found)
    return {
        "accuracy": found if known else None,
        "interval": None if math.isnan(low) else [low, high],
        "questions": len(right),
    }


def _line(name: str, share: dict[str, Any]) -> str:
    if share["accuracy"] is None:
        return f"| {name} | | | {share['questions']} |"
    return f"| {name} | {share['accuracy']:.3f} | {span(share['interval'])} | {share['questions']} |"


def span(interval: Sequence[float] | None) -> str:
    """An interval in words; nothing where none is known."""
    return "" if interval is None or math.isnan(interval[0]) else "{:.3f} to {:.3f}".format(*interval)
