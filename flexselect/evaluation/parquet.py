"""Predictions as Parquet, for tools that query tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexselect.storage.run_settings import file_in_one_step
from flexselect.structures.cost import Cost
from flexselect.structures.unicode_text import replace_surrogates

if TYPE_CHECKING:
    import pyarrow

NAME = "predictions.parquet"
TEXTS = ("id", "video", "question", "answer", "error", "prompt_hash", "video_hash", "parsed", "drawn")
COUNTS = ("num_visual_tokens", "num_kept_tokens")
NUMBERS = ("likelihood", "presence")
FLAGS = ("correct", "multiple_choice", "absent")
LISTS = ("warnings", "expected")
AS_JSON = ("sampling", "verification", "grounding")  # objects whose fields differ from row to row
OF_COST = tuple(field.name for field in fields(Cost))
OF_MOMENTS = ("start", "end", "peak", "share", "alone")


def write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write predictions in one step; every file has the same columns, so that files of several runs fit together.

    Args:
        path: the file.
        rows: lines of predictions.jsonl.
    """
    import pyarrow
    from pyarrow import parquet

    schema = _schema()
    table = pyarrow.Table.from_pylist([_cells(row) for row in rows], schema)
    with file_in_one_step(path) as temporary:
        parquet.write_table(table, temporary)


def _schema() -> pyarrow.Schema:
    """Return the columns: `timings` and `groups` are maps, `moments` a list of structs, `cost` a struct."""
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    moment = pa.struct([*((name, number) for name in OF_MOMENTS), ("units", pa.list_(pa.int64()))])
    return pa.schema(
        [
            *((name, text) for name in (*TEXTS, *AS_JSON)),
            *((name, pa.int64()) for name in COUNTS),
            *((name, number) for name in NUMBERS),
            *((name, pa.bool_()) for name in FLAGS),
            *((name, pa.list_(text)) for name in LISTS),
            ("timings", pa.map_(text, number)),
            ("groups", pa.map_(text, text)),
            ("moments", pa.list_(moment)),
            ("cost", pa.struct([(name, number if name == "tflop" else pa.int64()) for name in OF_COST])),
        ]
    )


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    """Convert a prediction to cells: one expected answer becomes a list of one, some objects become JSON."""
    cells = {**row}
    for name in AS_JSON:
        cells[name] = json.dumps(row[name]) if row.get(name) is not None else None
    if isinstance(row.get("expected"), str):
        cells["expected"] = [row["expected"]]
    for name in ("timings", "groups"):
        cells[name] = list((row.get(name) or {}).items())
    return _encodable(cells)


def _encodable(value: Any) -> Any:
    """Replace what UTF-8 cannot encode in all texts, for example of file names in other encodings."""
    if isinstance(value, str):
        return replace_surrogates(value)
    if isinstance(value, list | tuple):
        return type(value)(map(_encodable, value))
    if isinstance(value, dict):
        return {name: _encodable(item) for name, item in value.items()}
    return value
