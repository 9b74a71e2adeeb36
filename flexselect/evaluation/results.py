"""Results of a validation: accuracies with intervals, overall and by group, as plain types and as a table."""

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

from flexselect.evaluation.absence import absence_line, summarise_absence
from flexselect.evaluation.costs import UNKNOWN, cost_line, mean_cost
from flexselect.evaluation.grounding import grounding_line, summarise_grounding
from flexselect.evaluation.statistics import accuracy, interval
from flexselect.storage.json_lines import json_line, read_json_lines
from flexselect.storage.run_settings import flatten_settings, write_atomically

log = logging.getLogger(__name__)

MAX_REASONS = 3  # reasons why rows do not count that the summary names; results.json has all
EMPTY = "(empty)"  # shown for an empty answer
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline
NOTHING_EXPECTED = "the annotations have no answer to compare with"


def summarise(
    rows: Sequence[dict[str, Any]], macro: str | None = None, absent_below: float | None = None
) -> dict[str, Any]:
    """Summarise predictions.

    Args:
        rows: predictions with `correct` (None: does not count), `video`, `parsed`, `groups`, `error`.
        macro: name of the grouping whose groups' accuracies are averaged into `accuracy`; None averages over questions.
        absent_below: the run's option of this name.

    Returns:
        `accuracy` with its 95 % `interval`: `right` of `counted` questions; `micro_accuracy`, over questions; numbers
        of `questions`, of `errors`, of answers without a letter (`unparsed`), and of rows that do not count because
        their annotations lack something (`uncounted`, `uncounted_errors` among them, and `uncounted_reasons`); `cost`,
        see `mean_cost`; and `groups`: accuracy, interval, right and questions by name and value.
    """
    counted = [row for row in rows if row["correct"] is not None]
    macro_groups = [row["groups"].get(macro, "") for row in counted] if macro else None
    names = list(dict.fromkeys(name for row in counted for name in row["groups"]))
    values = {name: sorted({row["groups"][name] for row in counted if name in row["groups"]}) for name in names}
    overall = _accuracy_entry(counted, macro_groups)
    return {
        "accuracy": overall["accuracy"],
        "interval": overall["interval"],
        "right": overall["right"],
        "counted": len(counted),
        "micro_accuracy": _accuracy_entry(counted)["accuracy"],
        "questions": len(rows),
        "errors": sum(row["error"] is not None for row in rows),
        "uncounted": len(rows) - len(counted),
        "uncounted_errors": sum(row["correct"] is None and row["error"] is not None for row in rows),
        "uncounted_reasons": dict(Counter(_reason(row) for row in rows if row["correct"] is None)),
        "warnings": frequent_warnings(rows),
        "cost": mean_cost(rows),
        "grounding": summarise_grounding(rows),
        "absence": summarise_absence(rows, absent_below),
        "unparsed": sum(row["parsed"] is None and row["error"] is None and row["multiple_choice"] for row in counted),
        "groups": {
            name: {
                value: _accuracy_entry([row for row in counted if row["groups"].get(name) == value])
                for value in values[name]
            }
            for name in names
        },
    }


def prediction_key(row: dict[str, Any]) -> tuple[str, str, str]:
    """Return the key of the question that a prediction answers, equal to `VideoQuestion.key`."""
    return row["id"], row["video"], row["question"]


def short_key(key: tuple[str, str, str]) -> str:
    """Hash a question's key to the 12 hex digits that results.json lists."""
    return hashlib.sha256("\0".join(key).encode()).hexdigest()[:12]


def read_predictions(folder: Path) -> list[dict[str, Any]]:
    """Read all predictions in a folder; the last one of each question counts."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for file in [folder / "predictions.jsonl", *list_parts(folder)]:
        values, unreadable = read_json_lines(file)
        for value in values:
            if is_prediction(value):
                rows[prediction_key(value)] = value
            else:
                unreadable.append(json_line(value).encode().rstrip())
        if unreadable:
            log.warning("%s: %d lines are no predictions; their questions are asked again", file, len(unreadable))
    return list(rows.values())


def read_answers(folder: Path) -> list[dict[str, Any]]:
    """Read the predictions without an error; an answer without an expected answer is not an error."""
    rows = [{**row, "error": None} if row["error"] == NOTHING_EXPECTED else row for row in read_predictions(folder)]
    return [row for row in rows if row["error"] is None]


def merge_predictions(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Replace predictions.jsonl by these rows in one step: a kill leaves the old file or the new one.

    Lines that are not predictions are moved to `unreadable.jsonl`, so that nothing is lost.
    """
    parts = list_parts(folder)
    for file in [folder / "predictions.jsonl", *parts]:
        values, unreadable = read_json_lines(file)
        unreadable += [json_line(value).encode().rstrip() for value in values if not is_prediction(value)]
        if unreadable:
            with (folder / "unreadable.jsonl").open("ab") as unreadable_file:
                unreadable_file.write(b"\n".join([*unreadable, b""]))
    write_atomically(folder / "predictions.jsonl", "".join(map(json_line, rows)))
    for part in parts:
        part.unlink()


def list_parts(folder: Path) -> list[Path]:
    """List the files of single processes that are not merged yet."""
    return sorted(folder.glob("part-*.jsonl"))


def is_prediction(value: Any) -> bool:
    """Return whether a value is a line of predictions.jsonl."""
    texts = ("id", "video", "question")
    return isinstance(value, dict) and all(isinstance(value.get(name), str) for name in texts) and "error" in value


def sampling_by_video(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return how each answered video, or part of one, was sampled: `frames`, `fps`, `grid`, ..., by name."""
    samplings = {}
    for row in rows:
        if row["error"] is None:
            sampling = {**(row.get("sampling") or {}), "visual_tokens": row["num_visual_tokens"]}
            part = [f"{sampling.get('start', 0):g} to", f"{sampling['end']:g} s" if "end" in sampling else "its end"]
            name = " ".join([row["video"], *part]) if {"start", "end"} & sampling.keys() else row["video"]
            samplings[name] = sampling
    return samplings


def ranges(videos: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return minimum and maximum of each number over all videos; None if no video has it."""
    numbers: dict[str, list[float]] = {"frames": [], "fps": [], "units": [], "visual_tokens": []}
    for video in videos:
        facts = {**video, "units": video["grid"][0] if "grid" in video else None}
        for name, values in numbers.items():
            if facts.get(name) is not None:
                values.append(facts[name])
    return {name: [min(values), max(values)] if values else None for name, values in numbers.items()}


def table(results: dict[str, Any], title: str) -> str:
    """Format results as a Markdown table."""
    lines = [f"# {title}", "", "| | accuracy | 95 % interval | right of |", "|---|---|---|---|"]
    lines += [_table_row(name, entry) for name, entry in _entries(results, "**all**").items()]
    settings, fingerprint = flatten_settings(results.get("settings", {})), results.get("fingerprint", {})
    unparsed = "count as a letter drawn by chance" if settings.get("unparsed") == "random" else "count as wrong"
    notes = f"{summarise_errors(results)}; {results['unparsed']} answers without a letter {unparsed}."
    about = {**settings, **{name: value for name, value in fingerprint.items() if not isinstance(value, dict)}}
    settings_lines = [f"- {name}: {value}" for name, value in about.items() if value is not None]
    evidence = [f"{line}." for line in (*evidence_lines(results), *cost_lines(results))]
    return "\n".join([*lines, "", *evidence, notes, "", *settings_lines, ""])


def frequent_warnings(rows: Iterable[dict[str, Any]], most: int | None = None) -> dict[str, int]:
    """Count the warnings of rows; those that differ in numbers and names only are counted together, numbers as N.

    Args:
        rows: predictions.
        most: how many kinds to return, the most frequent ones; None: all.
    """
    kinds, texts = Counter[str](), dict[str, set[str]]()
    for warning in (warning for row in rows for warning in row.get("warnings") or ()):
        kind = re.sub(r"[\d.,]*\d", "N", _without_quotes(warning))
        kinds[kind] += 1
        texts.setdefault(kind, set()).add(warning)
    return {min(texts[kind]) if len(texts[kind]) == 1 else kind: count for kind, count in kinds.most_common(most)}


def summary_lines(results: dict[str, Any]) -> str:
    """Format results for a terminal: a line for all questions and for each group, and what counts as wrong."""
    if results["accuracy"] is None:
        return _answered_lines(results)
    entries = _entries(results, "all questions")
    width = max(map(len, entries))
    lines = [
        f"{name:{width}}  accuracy {format_number(entry['accuracy'])}  95 % {format_interval(entry['interval'])}"
        f"  right {_right_of(entry)}"
        for name, entry in entries.items()
    ]
    facts = [*evidence_lines(results), *cost_lines(results), summarise_errors(results)]
    return "\n".join([*lines, *facts, *_doubts(results), ""])


def _answered_lines(results: dict[str, Any]) -> str:
    """Format results in which no row counts: there is no accuracy."""
    line = f"no accuracy: {summarise_errors(results).partition('; ')[2] or 'there are no questions'}"
    return "\n".join([line, *evidence_lines(results), *cost_lines(results), *_doubts(results), ""])


def evidence_lines(results: dict[str, Any]) -> list[str]:
    """Format what annotations say about moments and absence."""
    grounding, absence = results.get("grounding"), results.get("absence")
    return [*([grounding_line(grounding)] if grounding else []), *([absence_line(absence)] if absence else [])]


def cost_lines(results: dict[str, Any]) -> list[str]:
    """Format what a question costs; no line for results of earlier versions."""
    return [cost_line(results["cost"])] if results.get("cost") else []


def _doubts(results: dict[str, Any]) -> list[str]:
    return [f"{count} rows: {warning}" for warning, count in results["warnings"].items()]


def _entries(results: dict[str, Any], everything: str) -> dict[str, dict[str, Any]]:
    """Return what is counted of all questions, under the name `everything`, and of each group."""
    groups = {
        f"{name}: {value}": entry for name, values in results["groups"].items() for value, entry in values.items()
    }
    return {everything: results, **groups}


def shown_answer(row: dict[str, Any]) -> str:
    """Return the answer of a row as people are shown it: an error in its place, and `EMPTY` for an empty answer.

    Control characters, which could make a terminal do things, are written as escapes.
    """
    text = str(row["error"] or row["answer"].strip() or EMPTY)
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def summarise_errors(results: dict[str, Any]) -> str:
    """Say how many errors count as wrong, and why other rows do not count."""
    uncounted, reasons = results.get("uncounted", 0), results.get("uncounted_reasons", {})
    ordered = sorted(reasons.items(), key=lambda reason: -reason[1])
    named = [f"{count} {reason}" for reason, count in ordered[:MAX_REASONS]]
    rest = sum(count for _, count in ordered[MAX_REASONS:])
    why = ", ".join([*named, *([f"{rest} for other reasons"] if rest else [])])
    left_out = f"; {uncounted} rows do not count: {why or 'their annotations lack something'}" if uncounted else ""
    uncounted_errors = results.get("uncounted_errors", uncounted)  # in earlier versions all uncounted rows were errors
    counting = results["errors"] - uncounted_errors
    return f"{counting} errors count as wrong{left_out}"


def _reason(row: dict[str, Any]) -> str:
    """Return why a row does not count, without details, so that rows with the same reason can be counted."""
    reason = re.sub(r"row \d+( of the annotations:? ?)?", "", str(row["error"] or NOTHING_EXPECTED))
    return shorten(_without_quotes(reason), 100, placeholder=" ...")


def _without_quotes(text: str) -> str:
    """Leave out what is quoted, so that sentences about different things can be counted together."""
    return re.sub(r"(['\"]).*\1", "...", text)


def _accuracy_entry(rows: Sequence[dict[str, Any]], groups: Sequence[str] | None = None) -> dict[str, Any]:
    right = [bool(row["correct"]) for row in rows]
    by_group: dict[str, list[bool]] = {}
    for group, hit in zip(groups or [""] * len(right), right):
        by_group.setdefault(group, []).append(hit)
    share = accuracy(by_group, macro=groups is not None)
    low, high = interval(right, [row["video"] for row in rows], groups)
    return {
        "accuracy": None if math.isnan(share) else share,
        "interval": None if math.isnan(low) else [low, high],
        "right": sum(right),
        "questions": len(right),
    }


def _table_row(name: str, entry: dict[str, Any]) -> str:
    interval = format_interval(entry["interval"])
    return f"| {name} | {format_number(entry['accuracy'])} | {interval} | {_right_of(entry)} |"


def _right_of(entry: dict[str, Any]) -> str:
    """Format how many answers are right."""
    return f"{entry['right']} of {entry.get('counted', entry['questions'])}"


def format_number(value: float | None) -> str:
    """Format a number to three decimal places; a dash if it is unknown."""
    return UNKNOWN if value is None or math.isnan(value) else f"{value:.3f}"


def format_interval(interval: Sequence[float] | None, form: str = ".3f") -> str:
    """Format an interval as "low to high"; a dash if it is unknown, as for a single video."""
    if interval is None or math.isnan(interval[0]):
        return UNKNOWN
    return f"{interval[0]:{form}} to {interval[1]:{form}}"
