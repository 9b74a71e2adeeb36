"""Read CSV as programs write it: commas, semicolons, tabs or bars, long cells, quotes that are never closed."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from datamodules.rows.row import Row
from flexselect.structures.unicode_text import replace_surrogates

SEPARATORS = ",;\t|"
LONGEST = 2**31 - 1  # maximum length of a cell; a C long holds this everywhere


def read_csv(path: Path, text: str) -> list[Row]:
    """Read rows with the column names of the first line. Values stay text: 005 stays 005, NA stays NA; empty is None.

    A row with more cells than columns gets an `error`: usually a text with a comma lacks quotes.

    Raises:
        ValueError: if a quote is never closed or a column name occurs twice; naming the file.
    """
    csv.field_size_limit(LONGEST)
    first, _, rest = text.partition("\n")
    declaration = first.strip().lower()
    if declaration.startswith("sep=") and len(declaration) == 5:  # written by Excel
        separator, text = declaration[-1], rest
    else:
        separator = "\t" if path.suffix.lower() == ".tsv" else _separator(first)
    try:
        lines = list(_cells(text, separator, strict=True))
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            raise ValueError(f"{path}: a quote is opened and never closed: {_last_cell(text, separator)!r}") from error
        lines = list(_cells(text, separator, strict=False))
    lines = [cells for cells in lines if any(cells)]
    if not lines:
        return []
    names = [name.strip() for name in lines[0]]
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise ValueError(f"{path}: has two columns named {twice[0]!r}")
    return [_row(names, cells) for cells in lines[1:]]


def _row(names: list[str], cells: list[str]) -> Row:
    row = Row({name: replace_surrogates(cell) if cell else None for name, cell in zip(names, cells) if name})
    row |= {name: None for name in names[len(cells) :] if name}
    if any(cells[len(names) :]):
        problem = f"has {len(cells)} cells, the first line names {len(names)}"
        row.error = f"{problem}: put quotes around a text with a separator in it"
    return row


def _separator(line: str) -> str:
    """Return the separator that occurs most often in the first line, outside of quotes."""
    outside = "".join(line.split('"')[::2])
    return max(SEPARATORS, key=outside.count)


def _cells(text: str, separator: str, strict: bool) -> Iterable[list[str]]:
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=strict)


def _last_cell(text: str, separator: str) -> str:
    """Return the beginning of the cell that runs to the end of the file."""
    *_, last = _cells(text, separator, strict=False)
    return last[-1][:60]
