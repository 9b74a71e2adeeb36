"""Read JSON as programs write it: a list, a list under a key, one row, or one row per line, with any extension."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datamodules.rows.row import Row, Written, tidy

LINES = (".jsonl", ".ndjson")
KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}


def read_json(path: Path, text: str) -> list[Row]:
    """Read rows; numbers keep their digits, NaN becomes None.

    Raises:
        ValueError: naming the file, the line or record, and the known formats.
    """
    text = text.lstrip("\ufeff")
    try:
        whole = _loads(text)
    except (ValueError, RecursionError) as error:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        if path.suffix.lower() == ".json" and not _is_json(lines[0][1]):
            raise ValueError(f"{path}: cannot be read as annotations: {error}") from error
        return [_row(_line(path, number, line), f"{path}, line {number}") for number, line in lines]
    if isinstance(whole, dict):
        whole = _rows_in(path, whole)
    if not isinstance(whole, list):
        raise ValueError(f"{path}: holds {kind_of(whole)}, not a list of rows")
    return [_row(value, f"{path}, record {number}") for number, value in enumerate(whole, 1)]


def kind_of(value: Any) -> str:
    """Name the type of a JSON value."""
    return KINDS.get(type(value), "a number")


def _loads(text: str) -> Any:
    return json.loads(text, parse_float=Written, parse_constant=lambda name: None)


def _is_json(line: str) -> bool:
    try:
        _loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _line(path: Path, number: int, line: str) -> Any:
    try:
        return _loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}, line {number}: cannot be read as annotations: {error}") from error


def _rows_in(path: Path, whole: dict[str, Any]) -> list[Any]:
    """Return the only list of rows in an object, or the object itself if it is a row."""
    lists = {
        name: value
        for name, value in whole.items()
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value)
    }
    is_single_line = path.suffix.lower() in LINES and not lists  # a JSONL file with one line
    if "video" in whole or "image" in whole or is_single_line:  # a row; its turns are a list too
        return [whole]
    if len(lists) == 1:
        return next(iter(lists.values()))
    content = f"lists of rows under {', '.join(lists)}" if lists else f"an object with {', '.join(whole) or 'nothing'}"
    known = "a list of rows, or an object with one (pandas: orient='records')"
    raise ValueError(f"{path}: holds {content}; known is {known}")


def _row(value: Any, location: str) -> Row:
    if not isinstance(value, dict):
        raise ValueError(f"{location}: is {kind_of(value)}, not an object with columns")
    return Row(tidy(value))
