"""Rows as questions: which column is what, options and answers in the forms that people write, groups."""

from __future__ import annotations

import ast
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from datamodules.rows.files import read_rows
from datamodules.rows.row import Row
from flexselect.evaluation.answer_parsing import LETTERS
from flexselect.evaluation.questions import VideoQuestion
from flexselect.structures.frames import ReadOptions

log = logging.getLogger(__name__)

REQUIRED = ("id", "video", "question")
COLUMNS = (*REQUIRED, "options", "answer", "start", "end")
ALSO = {"start": "video_start", "end": "video_end"}  # as the Qwen utilities call them
CLOCK = re.compile(r"(?:(\d+):)?([0-5]?\d):([0-5]?\d(?:\.\d+)?)")  # hours, minutes, seconds
MOST_GROUPS, MOST_WORDS, LONGEST = 20, 4, 40  # of a column that is taken as a group by itself


def read_annotations(
    source: str,
    columns: dict[str, str] | None = None,
    groups: Sequence[str] | None = None,
    limit: int | None = None,
    encoding: str | None = None,
    reading: ReadOptions | None = None,
) -> list[VideoQuestion]:
    """Read questions; a row that cannot be asked is kept, with its `error` set.

    Args:
        source: see `read_rows`.
        columns: names in the file by ours (id, video, question, options, answer, start, end), where they differ.
        groups: columns that accuracy is broken down by; None: those of few short words.
        limit: only the first so many rows.
        encoding: see `read_rows`.
        reading: of all videos; rows add their `start` and `end`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that cannot be parsed at all, or holds no rows, or lacks a column that is asked for.
    """
    rows = read_rows(source, encoding)[:limit]
    if not rows:
        raise ValueError(f"{source}: holds no rows")
    there = list(dict.fromkeys(str(name) for row in rows for name in row))
    names = _names(columns or {}, there, source)
    lacking = [name for name in REQUIRED if names[name] not in there]
    if lacking:
        example = ", ".join(f"{name}: NAME" for name in lacking)
        advice = f"where they are called otherwise, say so with --data.columns '{{{example}}}'"
        said = f"has no column{'s' * (len(lacking) > 1)} {', '.join(names[name] for name in lacking)}"
        raise ValueError(f"{source}: {said}; found {', '.join(there)}; {advice}")
    for group in groups or ():
        _require(group, there, source)
    chosen = groups if groups is not None else _groups(rows, [n for n in there if n not in names.values()])
    found = [question_of(row, number, names, chosen, reading) for number, row in enumerate(rows)]
    _say_equal_options(found, source)
    return _told_apart(found)


def question_of(
    row: dict[str, Any],
    number: int = 0,
    names: dict[str, str] | None = None,
    groups: Sequence[str] = (),
    reading: ReadOptions | None = None,
) -> VideoQuestion:
    """A row as a question; what is wrong with it is said in `error`.

    Args:
        row: values by column.
        number: of the row, from 0.
        names: of all columns, by ours; None: ours.
        groups: columns of groups.
        reading: of the video, without the row's part.
    """
    values = {name: row.get((names or {}).get(name, name)) for name in COLUMNS}
    values |= {name: row.get(also) for name, also in ALSO.items() if values[name] is None}
    question = VideoQuestion(
        id=str(values["id"] if values["id"] is not None else f"row-{number + 1}"),
        video=str(values["video"] or ""),
        question=str(values["question"] or ""),
        groups=tuple((name, str(row[name])) for name in groups if row.get(name) is not None),
        reading=reading or ReadOptions(),
    )
    where, missing = f"row {number + 1} of the annotations", [name for name in REQUIRED if values[name] in (None, "")]
    error = f"{where} {row.error}" if isinstance(row, Row) and row.error else None
    for name in REQUIRED:
        if error is None and isinstance(values[name], dict | list):
            error = f"{where}: {name} must be a text, got {values[name]!r}"
    if error is None and missing:
        error = f"{where} has no {' and no '.join(missing)}"
    if error is None and not question.question.strip():
        error = "the question is empty"
    try:
        question = replace(question, options=options_of(values["options"]), answer=answer_of(values["answer"]))
        question = replace(question, reading=replace(question.reading, **_part(values)))
        if error is None:
            _check_answer(question)
    except ValueError as problem:
        error = error or f"{where}: {problem}"
    return replace(question, error=error)


def _check_answer(question: VideoQuestion) -> None:
    """With options, each expected answer must be one of them."""
    for answer, letter in zip(question.expected, question.expected_letters):
        if question.options and letter is None:
            raise ValueError(f"the answer {answer!r} is none of its options")


def options_of(value: Any) -> tuple[str, ...]:
    """Options as a list or by letter, or in a CSV as a written list, a line each, or separated by "|".

    Letters that are written before all of them ("A. red") are left out: they are shown with their letters.

    Raises:
        ValueError: for anything else, and for more options than there are letters.
    """
    if isinstance(value, str):
        value = _written_list(value) if value.lstrip().startswith("[") else _split(value)
    if value is None:
        return ()
    if isinstance(value, dict) and len(value) > 1 and [str(name).upper() for name in value] == [*LETTERS[: len(value)]]:
        value = list(value.values())
    if isinstance(value, list | tuple):
        given, value = value, list(value)
        while value and value[-1] is None:  # a table pads with nothing
            value.pop()
        if len(value) == 1:
            raise ValueError(f"the options must be a list of two or more, got {given!r}")
    if not isinstance(value, list):
        raise ValueError(f"the options must be a list of two or more, got {value!r}")
    if len(value) > len(LETTERS):
        raise ValueError(f"{len(value)} options are too many: letters end at Z, so give at most {len(LETTERS)}")
    if any(one is None or isinstance(one, dict | list) for one in value):
        raise ValueError(f"the options must be texts, got {value!r}")
    options = [str(one) for one in value]
    marked = [re.fullmatch(rf"\s*[(\[]?{LETTERS[i]}[.):\]]\s*(.+)", text, re.DOTALL) for i, text in enumerate(options)]
    return tuple(match.group(1) for match in marked if match) if all(marked) else tuple(options)


def answer_of(value: Any) -> str | tuple[str, ...] | None:
    """What is expected: a text, or a list of which any will do; None where nothing is.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(value, str) and value.strip().startswith("[") and value.strip().endswith("]"):
        try:
            parts = _written_list(value)
        except ValueError:
            parts = []
        if parts and all(isinstance(part, str) for part in parts):
            return (*parts, value)  # a list as a CSV has it; the text itself will do as well
    if isinstance(value, list | tuple):
        kept = [one for one in value if one is not None]
        if not kept or any(isinstance(one, dict | list) for one in kept):
            raise ValueError(f"the answer must be a text, or a list of texts of which any will do, got {value!r}")
        return tuple(map(str, kept))
    if isinstance(value, dict):
        raise ValueError(f"the answer must be a text, or a list of texts of which any will do, got {value!r}")
    return None if value is None else str(value)


def _split(text: str) -> list[str]:
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]
    return lines if "|" not in text and len(lines) > 1 else text.split("|")


def _written_list(text: str) -> list[Any]:
    try:
        found = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"the options {text!r} are no list") from error
    return list(found) if isinstance(found, list | tuple) else [found]


def _say_equal_options(questions: Sequence[VideoQuestion], source: str) -> None:
    """A mistake of whoever wrote them; the question can still be asked."""
    equal = [i for i, question in enumerate(questions) if len({*question.options}) < len(question.options)]
    if equal:
        options = questions[equal[0]].options
        twice = next(option for option in options if options.count(option) > 1)
        log.warning("%s: %d rows have an option twice; the first: row %d, %r", source, len(equal), equal[0] + 1, twice)


def _part(values: dict[str, Any]) -> dict[str, Any]:
    """`start` and `end` of a row, in seconds."""
    found = {}
    for name in ("start", "end"):
        if values[name] is None or values[name] == "":
            continue
        try:
            found[name] = seconds_of(values[name])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} must be seconds, or hours:minutes:seconds, got {values[name]!r}") from error
    return found


def seconds_of(value: Any) -> float:
    """A time of a video in seconds: 90, "90", "1:30", "00:01:30.5".

    Raises:
        TypeError: for what is neither a number nor a text.
        ValueError: for any other text, and for what is not finite.
    """
    if isinstance(value, str) and (clock := CLOCK.fullmatch(value.strip())):
        hours, minutes, seconds = clock.groups()
        return 3600 * int(hours or 0) + 60 * int(minutes) + float(seconds)
    seconds = float(value)
    if not math.isfinite(seconds):
        raise ValueError(f"{value!r} is no time")
    return seconds


def _names(columns: dict[str, str], there: Sequence[str], source: str) -> dict[str, str]:
    """Every column's name in the file, by ours."""
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown:
        near = get_close_matches(unknown[0], COLUMNS, 1)
        meant = f", {near[0]} perhaps" if near else ""
        raise ValueError(f"--data.columns: {unknown[0]!r} is none of {', '.join(COLUMNS)}{meant}; give OURS: THEIRS")
    for name in columns.values():
        _require(name, there, source)
    return {name: columns.get(name, name) for name in COLUMNS}


def _require(name: str, there: Sequence[str], source: str) -> None:
    if name not in there:
        near = get_close_matches(name, there, 1)
        meant = f"; {near[0]!r} is near" if near else ""
        raise ValueError(f"{source}: has no column {name!r}; found {', '.join(there)}{meant}")


def _groups(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """Columns of few short words, some of them more than once: categories."""
    return [name for name in names if name not in ALSO.values() and _is_group([row.get(name) for row in rows])]


def _is_group(values: Sequence[Any]) -> bool:
    told = [value for value in values if value is not None]
    if not all(isinstance(value, str) for value in told) or not any(re.search(r"[^\W\d]", value) for value in told):
        return False
    kinds = set(told)
    few = 2 <= len(kinds) <= min(MOST_GROUPS, max(2, len(values) / 2)) and len(kinds) < len(told)
    return few and all(len(kind) <= LONGEST and len(kind.split()) <= MOST_WORDS and "\n" not in kind for kind in kinds)


def _told_apart(questions: list[VideoQuestion]) -> list[VideoQuestion]:
    """A row that repeats another one is not asked twice: it gets an id of its own, and an error.

    One that asks otherwise (another part of the video, other options) gets an id of its own, and is asked.
    """
    first: dict[tuple[str, str, str], int] = {}
    renamed = []
    for i, question in enumerate(questions):
        earlier = first.setdefault(question.key, i)
        if earlier == i:
            continue
        error: str | None = f"row {i + 1} of the annotations repeats id, video and question of row {earlier + 1}"
        if question.error is None and question.prompt_hash != questions[earlier].prompt_hash:
            error = None
            renamed.append(f"{question.id}#row-{i + 1}")
        questions[i] = replace(question, id=f"{question.id}#row-{i + 1}", error=error)
    if renamed:
        log.warning("%d rows repeat another one's id and ask otherwise: %s for example", len(renamed), renamed[0])
    return questions
