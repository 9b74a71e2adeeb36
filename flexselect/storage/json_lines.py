"""Files of JSON, one value per line: split only at the line feed, because a text may hold any other line end."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

OTHER_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}  # some programs split lines here too; escaped


def read_json_lines(path: Path) -> tuple[list[Any], list[bytes]]:
    """Read all values of a file, and the lines that are not JSON.

    A last line that a kill cut short is in neither list. A missing file has no lines.
    """
    if not path.exists():
        return [], []
    *lines, last = path.read_bytes().split(b"\n")
    values, unreadable = [], []
    for line in lines:
        if not line.strip():
            continue
        try:
            values.append(json.loads(line))
        except (ValueError, RecursionError):
            unreadable.append(line)
    if last.strip():
        with suppress(ValueError, RecursionError):
            values.append(json.loads(last))
    return values, unreadable


def json_line(value: Any) -> str:
    """Return a value as one line with its line feed, readable for people and for every program that reads lines."""
    line = json.dumps(value, ensure_ascii=False).translate(OTHER_ENDS)
    try:
        line.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: a file name that is not UTF-8
        line = json.dumps(value)
    return line + "\n"


def append_line(path: Path, value: Any) -> None:
    """Append a value to a file as a new line, even if the last line was cut short.

    Raises:
        OSError: naming the file, for example if the disk is full.
    """
    try:
        with path.open("ab") as file:
            if file.tell():
                with path.open("rb") as written:
                    written.seek(-1, 2)
                    is_complete = written.read(1) == b"\n"
                file.write(b"" if is_complete else b"\n")
            file.write(json_line(value).encode())
    except OSError as error:
        raise OSError(f"{path}: {error.strerror}; what was written stays, call again to go on") from error
