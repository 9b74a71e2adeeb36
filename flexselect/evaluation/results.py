"""What a validation found, from its predictions: accuracies with intervals, by group, in plain types and as a table."""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

from flexselect.evaluation.statistics import accuracy, interval
from flexselect.storage.json_lines import json_line, read_json_lines
from flexselect.storage.run_settings import flat, write_atomically

log = logging.getLogger(__name__)

REASONS = 3  # that are told of why rows do not count; results.json has all
NONE = "–"  # where a number is not known
NOTHING_EXPECTED = "the annotations have no answer to compare with"


def summarise(rows: Sequence[dict[str, Any]], macro: str | None = None) -> dict[str, Any]:
    """Results of all predictions that count.

    Args:
        rows: predictions with `correct` (None: does not count), `video`, `parsed`, `groups`, `error`.
        macro: the group whose shares are averaged into `accuracy`; None: all questions count alike.

    Returns:
        `accuracy` with its 95 % `interval`, and what it is of: `right` of `counted` questions; `micro_accuracy`; counts
        of `questions`, `errors`, rows that do not count, since their annotations lack something (`uncounted`, of which
        `uncounted_errors`, and `uncounted_reasons`), answers without a letter (`unparsed`); and `groups`: accuracy,
        interval, right and questions by name and value.
    """
    counted = [row for row in rows if row["correct"] is not None]
    of_group = [row["groups"].get(macro, "") for row in counted] if macro else None
    names = list(dict.fromkeys(name for row in counted for name in row["groups"]))
    values = {name: sorted({row["groups"][name] for row in counted if name in row["groups"]}) for name in names}
    whole = _share(counted, of_group)
    return {
        "accuracy": whole["accuracy"],
        "interval": whole["interval"],
        "right": whole["right"],
        "counted": len(counted),
        "micro_accuracy": _share(counted)["accuracy"],
        "questions": len(rows),
        "errors": sum(row["error"] is not None for row in rows),
        "uncounted": len(rows) - len(counted),
        "uncounted_errors": sum(row["correct"] is None and row["error"] is not None for row in rows),
        "uncounted_reasons": dict(Counter(_reason(row) for row in rows if row["correct"] is None)),
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


def short_key(key: tuple[str, str, str]) -> str:
    """A question's key as results.json lists it: 12 hex digits."""
    return hashlib.sha256("\0".join(key).encode()).hexdigest()[:12]


def read_predictions(folder: Path) -> list[dict[str, Any]]:
    """All predictions in a folder, the last one of each question."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for file in [folder / "predictions.jsonl", *parts_in(folder)]:
        values, unreadable = read_json_lines(file)
        for value in values:
            if is_prediction(value):
                rows[prediction_key(value)] = value
            else:
                unreadable.append(json_line(value).encode().rstrip())
        if unreadable:
            log.warning("%s: %d lines are no predictions; their questions are asked again", file, len(unreadable))
    return list(rows.values())


def answers_in(folder: Path) -> list[dict[str, Any]]:
    """The predictions that are answers; that nothing was expected makes one no failure."""
    rows = [{**row, "error": None} if row["error"] == NOTHING_EXPECTED else row for row in read_predictions(folder)]
    return [row for row in rows if row["error"] is None]


def merge_predictions(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Make predictions.jsonl hold just these rows, in one step: a kill leaves the old file or the new one.

    Lines that are no predictions go to `unreadable.jsonl`, so that nothing that somebody wrote is lost.
    """
    parts = parts_in(folder)
    for file in [folder / "predictions.jsonl", *parts]:
        values, unreadable = read_json_lines(file)
        unreadable += [json_line(value).encode().rstrip() for value in values if not is_prediction(value)]
        if unreadable:
            with (folder / "unreadable.jsonl").open("ab") as kept:
                kept.write(b"\n".join([*unreadable, b""]))
    write_atomically(folder / "predictions.jsonl", "".join(map(json_line, rows)))
    for part in parts:
        part.unlink()


def parts_in(folder: Path) -> list[Path]:
    """What single processes wrote, and nobody has merged."""
    return sorted(folder.glob("part-*.jsonl"))


def is_prediction(value: Any) -> bool:
    """Whether a value is a line of predictions.jsonl."""
    texts = ("id", "video", "question")
    return isinstance(value, dict) and all(isinstance(value.get(name), str) for name in texts) and "error" in value


def videos_seen(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What was looked at of each video that was answered about, or part of one: `frames`, `fps`, `grid`, ..."""
    found = {}
    for row in rows:
        if row["error"] is None:
            seen = {**(row.get("sampling") or {}), "visual_tokens": row["num_visual_tokens"]}
            part = [f"{seen.get('start', 0):g} to", f"{seen['end']:g} s" if "end" in seen else "its end"]
            name = " ".join([row["video"], *part]) if {"start", "end"} & seen.keys() else row["video"]
            found[name] = seen
    return found


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
    lines = [f"# {title}", "", "| | accuracy | 95 % interval | right of |", "|---|---|---|---|"]
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
    uncounted, reasons = results.get("uncounted", 0), results.get("uncounted_reasons", {})
    most = sorted(reasons.items(), key=lambda reason: -reason[1])
    told = [f"{count} {reason}" for reason, count in most[:REASONS]]
    rest = sum(count for _, count in most[REASONS:])
    why = ", ".join([*told, *([f"{rest} for other reasons"] if rest else [])])
    left_out = f"; {uncounted} rows do not count: {why or 'their annotations lack something'}" if uncounted else ""
    counting = results["errors"] - results.get("uncounted_errors", uncounted)  # earlier results had no other rows
    return f"{counting} errors count as wrong{left_out}"


def _reason(row: dict[str, Any]) -> str:
    """Why a row does not count, in words that other rows share."""
    said = re.sub(r"row \d+( of the annotations:? ?)?", "", str(row["error"] or NOTHING_EXPECTED))
    return shorten(re.sub(r"(['\"]).*\1", "...", said), 100, placeholder=" ...")


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
        "right": sum(right),
        "questions": len(right),
    }


def _line(name: str, share: dict[str, Any]) -> str:
    count = f"{share['right']} of {share.get('counted', share['questions'])}"
    return f"| {name} | {three(share['accuracy'])} | {span(share['interval'])} | {count} |"


def three(value: float | None) -> str:
    """A number to three places; a dash where none is known."""
    return NONE if value is None or math.isnan(value) else f"{value:.3f}"


def span(interval: Sequence[float] | None, form: str = ".3f") -> str:
    """An interval in words; a dash where none is known, as of a single video."""
    if interval is None or math.isnan(interval[0]):
        return NONE
    return f"{interval[0]:{form}} to {interval[1]:{form}}"
