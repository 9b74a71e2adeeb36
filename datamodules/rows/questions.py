"""Convert rows to questions; options, answers and times may have any of the formats that people write."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from datamodules.rows.files import read_rows
from datamodules.rows.row import Row
from datamodules.rows.times import absent_of, moments_of, part_of
from flexselect.evaluation.answer_parsing import LETTERS
from flexselect.evaluation.questions import VideoQuestion
from flexselect.structures.frames import ReadOptions
from flexselect.structures.times import either

log = logging.getLogger(__name__)

REQUIRED = ("id", "video", "question")
COLUMNS = (*REQUIRED, "options", "answer", "start", "end", "moments", "absent")
ALTERNATIVES = {  # other names of columns: those of the Qwen utilities, and of sets of moments
    "video_start": "start",
    "video_end": "end",
    "span": "moments",
    "timestamps": "moments",
    "relevant_windows": "moments",
}
MAX_VALUES, MAX_WORDS, MAX_LENGTH = 20, 4, 40  # limits for a column that is used as a group by default


def read_annotations(
    source: str,
    columns: dict[str, str] | None = None,
    groups: Sequence[str] | None = None,
    limit: int | None = None,
    encoding: str | None = None,
    reading: ReadOptions | None = None,
) -> list[VideoQuestion]:
    """Read questions; a row that cannot be asked is kept with its `error` set.

    Args:
        source: see `read_rows`.
        columns: maps our names, such as question and answer (`COLUMNS` has all), to the names in the file.
        groups: columns for accuracy by group; None: columns with few short words.
        limit: read only this many rows; None: all.
        encoding: see `read_rows`.
        reading: how the videos are read; rows add `start` and `end`. None: the defaults.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file cannot be parsed, has no rows, or lacks a required column.
    """
    rows = read_rows(source, encoding)[:limit]
    if not rows:
        raise ValueError(f"{source}: holds no rows")
    available = list(dict.fromkeys(str(name) for row in rows for name in row))
    names = _names(columns or {}, available, source)
    lacking = [name for name in REQUIRED if names[name] not in available]
    if lacking:
        example = ", ".join(f"{name}: NAME" for name in lacking)
        advice = f"if they have other names, give --data.columns '{{{example}}}'"
        problem = f"has no column{'s' * (len(lacking) > 1)} {', '.join(names[name] for name in lacking)}"
        raise ValueError(f"{source}: {problem}; found {', '.join(available)}; {advice}")
    for group in groups or ():
        _require(group, available, source)
    group_columns = groups if groups is not None else _groups(rows, [n for n in available if n not in names.values()])
    questions = [question_of(row, number, names, group_columns, reading) for number, row in enumerate(rows)]
    _warn_of_equal_options(questions, source)
    return _make_ids_unique(questions)


def question_of(
    row: dict[str, Any],
    number: int = 0,
    names: dict[str, str] | None = None,
    groups: Sequence[str] = (),
    reading: ReadOptions | None = None,
) -> VideoQuestion:
    """Convert a row to a question; problems are recorded in its `error`.

    Args:
        row: values by column.
        number: number of the row, from 0.
        names: maps our names to column names; None: they are equal.
        groups: names of group columns.
        reading: how the video is read; the row adds `start` and `end`. None: the defaults.
    """
    values = {name: row.get((names or {}).get(name, name)) for name in COLUMNS}
    for column, name in ALTERNATIVES.items():
        values[name] = row.get(column) if values[name] is None else values[name]
    question = VideoQuestion(
        id=str(values["id"] if values["id"] is not None else f"row-{number + 1}"),
        video=str(values["video"] or ""),
        question=str(values["question"] or ""),
        groups=tuple((name, str(row[name])) for name in groups if row.get(name) is not None),
        reading=reading or ReadOptions(),
    )
    row_name = f"row {number + 1} of the annotations"
    missing = [name for name in REQUIRED if values[name] in (None, "")]
    error = f"{row_name} {row.error}" if isinstance(row, Row) and row.error else None
    no_text = [name for name in REQUIRED if isinstance(values[name], dict | list)]
    if error is None and no_text:
        error = f"{row_name}: {no_text[0]} must be a text, got {values[no_text[0]]!r}"
    if error is None and missing:
        error = f"{row_name} has no {' and no '.join(missing)}"
    if error is None and not question.question.strip():
        error = "the question is empty"
    try:
        for column, name in ALTERNATIVES.items():
            either(name, row.get(name), column, row.get(column), "column")
        question = replace(question, options=options_of(values["options"]), answer=answer_of(values["answer"]))
        question = replace(question, reading=replace(question.reading, **part_of(values)))
        question = replace(question, moments=moments_of(values["moments"]), absent=absent_of(values["absent"]))
        if question.absent and question.moments:
            raise ValueError("it has moments, and says absent: what is not in the video is at no moment")
        if error is None:
            _check_answer(question)
    except ValueError as problem:
        error = error or f"{row_name}: {problem}"
    return replace(question, error=error)


def _check_answer(question: VideoQuestion) -> None:
    """Check that each expected answer is one of the options, if there are options."""
    for answer, letter in zip(question.expected, question.expected_letters):
        if question.options and letter is None:
            raise ValueError(f"the answer {answer!r} is none of its options")


def options_of(value: Any) -> tuple[str, ...]:
    """Parse options: a list, a mapping by letter, or in CSV a written list, one per line, or separated by "|".

    If all options begin with their letters ("A. red"), the letters are removed; prompts add them again.

    Raises:
        ValueError: for any other format, or for more options than letters.
    """
    if isinstance(value, str):
        value = _written_list(value) if value.lstrip().startswith("[") else _split(value)
    if value is None:
        return ()
    if isinstance(value, dict) and len(value) > 1 and [str(name).upper() for name in value] == [*LETTERS[: len(value)]]:
        value = list(value.values())
    original = value
    if isinstance(value, list | tuple):
        value = list(value)
        while value and value[-1] is None:  # tables pad with empty cells
            value.pop()
    if not isinstance(value, list) or len(value) == 1:
        raise ValueError(f"the options must be a list of two or more, got {original!r}")
    if len(value) > len(LETTERS):
        raise ValueError(f"{len(value)} options are too many: letters end at Z, so give at most {len(LETTERS)}")
    if any(option is None or isinstance(option, dict | list) for option in value):
        raise ValueError(f"the options must be texts, got {value!r}")
    options = [str(option) for option in value]
    marked = [re.fullmatch(rf"\s*[(\[]?{LETTERS[i]}[.):\]]\s*(.+)", text, re.DOTALL) for i, text in enumerate(options)]
    return tuple(match.group(1) for match in marked if match) if all(marked) else tuple(options)


def answer_of(value: Any) -> str | tuple[str, ...] | None:
    """Parse the expected answer: a text, or a list of accepted texts; None if nothing is expected.

    Raises:
        ValueError: for any other type.
    """
    if isinstance(value, str) and value.strip().startswith("[") and value.strip().endswith("]"):
        try:
            parts = _written_list(value)
        except ValueError:
            parts = []
        if parts and all(isinstance(part, str) for part in parts):
            return (*parts, value)  # a list in a CSV; the whole text is accepted too
    if isinstance(value, list | tuple):
        kept = [text for text in value if text is not None]
        if not kept or any(isinstance(text, dict | list) for text in kept):
            raise ValueError(f"the answer must be a text, or a list of accepted texts, got {value!r}")
        return tuple(map(str, kept))
    if isinstance(value, dict):
        raise ValueError(f"the answer must be a text, or a list of accepted texts, got {value!r}")
    return None if value is None else str(value)


def _split(text: str) -> list[str]:
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]
    return lines if "|" not in text and len(lines) > 1 else text.split("|")


def _written_list(text: str) -> list[Any]:
    try:
        parsed = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"the options {text!r} are no list") from error
    return list(parsed) if isinstance(parsed, list | tuple) else [parsed]


def _warn_of_equal_options(questions: Sequence[VideoQuestion], source: str) -> None:
    """Warn of equal options; such a question can still be asked."""
    equal = [i for i, question in enumerate(questions) if len({*question.options}) < len(question.options)]
    if equal:
        options = questions[equal[0]].options
        twice = next(option for option in options if options.count(option) > 1)
        log.warning("%s: %d rows have an option twice; the first: row %d, %r", source, len(equal), equal[0] + 1, twice)


def _names(columns: dict[str, str], available: Sequence[str], source: str) -> dict[str, str]:
    """Map our names to the column names in the file."""
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown:
        near = get_close_matches(unknown[0], COLUMNS, 1)
        hint = f", {near[0]} perhaps" if near else ""
        raise ValueError(
            f"--data.columns: {unknown[0]!r} is none of {', '.join(COLUMNS)}{hint}; give {{NAME: NAME_IN_FILE}}"
        )
    for name in columns.values():
        _require(name, available, source)
    return {name: columns.get(name, name) for name in COLUMNS}


def _require(name: str, available: Sequence[str], source: str) -> None:
    if name not in available:
        near = get_close_matches(name, available, 1)
        hint = f"; {near[0]!r} is near" if near else ""
        raise ValueError(f"{source}: has no column {name!r}; found {', '.join(available)}{hint}")


def _groups(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """Find category columns: few different short values, and at least one is repeated."""
    return [name for name in names if name not in ALTERNATIVES and _is_group([row.get(name) for row in rows])]


def _is_group(values: Sequence[Any]) -> bool:
    present = [value for value in values if value is not None]
    if not all(isinstance(value, str) for value in present):
        return False
    if not any(re.search(r"[^\W\d]", value) for value in present):  # no letters
        return False
    kinds = set(present)
    few = 2 <= len(kinds) <= min(MAX_VALUES, max(2, len(values) / 2)) and len(kinds) < len(present)
    return few and all(
        len(kind) <= MAX_LENGTH and len(kind.split()) <= MAX_WORDS and "\n" not in kind for kind in kinds
    )


def _make_ids_unique(questions: list[VideoQuestion]) -> list[VideoQuestion]:
    """Give rows with a repeated id a new id; a row that repeats a whole question also gets an error and is not asked.

    A row with other options or another part of the video is asked under its new id.
    """
    first: dict[tuple[str, str, str], int] = {}
    renamed = []
    for i, question in enumerate(questions):
        earlier = first.setdefault(question.key, i)
        if earlier == i:
            continue
        new_id = f"{question.id}#row-{i + 1}"
        if question.error is None and question.prompt_hash != questions[earlier].prompt_hash:
            questions[i] = replace(question, id=new_id)
            renamed.append(new_id)
            continue
        error = f"row {i + 1} of the annotations repeats id, video and question of row {earlier + 1}"
        questions[i] = replace(question, id=new_id, error=error)
    if renamed:
        log.warning(
            "%d rows repeat another row's id with other options or another part: they get new ids, for example %s",
            len(renamed),
            renamed[0],
        )
    return questions
