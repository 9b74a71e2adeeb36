"""Files of JSON, a value a line: cut at the line feed alone, for a text may hold any other kind of line end."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

OTHER_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}  # at which some programs cut, too


def read_json_lines(path: Path) -> tuple[list[Any], list[bytes]]:
    """All values of a file, and the lines that are none.

    A last line that was cut short by a kill is in neither. A file that is not there has no lines.
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
    """A value as a line, with its end: readable for people, and for every program that reads lines."""
    line = json.dumps(value, ensure_ascii=False).translate(OTHER_ENDS)
    try:
        line.encode()
    except UnicodeEncodeError:  # half a surrogate pair: the name of a file that is no UTF-8
        line = json.dumps(value)
    return line + "\n"


def append_line(path: Path, value: Any) -> None:
    """Write a value at the end of a file, on a line of its own even where the last one was cut short.

    Raises:
        OSError: naming the file, when the disk is full for one.
    """
    try:
        with path.open("ab") as file:
            if file.tell():
                with path.open("rb") as before:
                    before.seek(-1, 2)
                    whole = before.read(1) == b"\n"
                file.write(b"" if whole else b"\n")
            file.write(json_line(value).encode())
    except OSError as error:
        raise OSError(f"{path}: {error.strerror}; what was written stays, call again to go on") from error
