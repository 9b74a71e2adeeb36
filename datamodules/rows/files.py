"""Read rows of annotation files and hub data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datamodules.rows.csv_files import read_csv
from datamodules.rows.json_files import read_json
from datamodules.rows.row import Row, tidy
from datamodules.rows.text import read_text
from flexselect.storage.video_paths import resolve_path

KINDS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


def read_rows(source: str, encoding: str | None = None) -> list[Row]:
    """Read all rows of a JSON, JSONL, CSV or Parquet file, or of a hub data set, "owner/name" or "owner/name:split".

    Values stay as written in the file: no types are guessed. Nothing is cached between runs.

    Args:
        source: the file or data set.
        encoding: encoding of a text file; None: detected from the first bytes.

    Raises:
        FileNotFoundError: if there is no such file or data set.
        ValueError: if the file cannot be read; with the reason.
    """
    path = resolve_path(source)
    kind = path.suffix.lower()
    if kind not in KINDS:
        if path.exists():
            raise ValueError(f"{source}: cannot read this kind of file; give one of {', '.join(KINDS)}")
        return _hub(source)
    if not path.is_file():
        raise FileNotFoundError(f"{source}: no such annotation file")
    try:
        if path.stat().st_size == 0:
            return []
        if kind == ".parquet":
            return _parquet(path)
        text = read_text(path, encoding)
    except PermissionError as error:
        raise ValueError(f"{source}: may not be read: permission denied") from error
    if not text.strip("\ufeff \r\n\t"):
        return []
    return read_csv(path, text) if kind in (".csv", ".tsv") else read_json(path, text)


def _parquet(path: Path) -> list[Row]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            return [Row(tidy(row)) for row in file.read().to_pylist()]
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path}: cannot be read as annotations: {error}") from error


def _hub(source: str) -> list[Row]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError
    from datasets.utils import logging as datasets_logging

    datasets_logging.disable_progress_bar()
    name, _, split = source.partition(":")
    try:
        rows: Any = load_dataset(name, split=split or "test")
        return [Row(tidy(dict(row))) for row in rows]
    except DatasetNotFoundError as error:
        raise FileNotFoundError(f"{source}: neither a file nor a data set on the hub ({error})") from error
    except Exception as error:  # datasets wraps the errors of its readers; the cause says what is wrong
        raise ValueError(f"{source}: cannot be read as annotations: {error.__cause__ or error}") from error
