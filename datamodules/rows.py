"""Rows of annotation files and hub data sets."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from datasets import load_dataset
from datasets.exceptions import DatasetNotFoundError
from datasets.utils import logging as datasets_logging

READERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


def read_rows(source: str) -> list[dict[str, Any]]:
    """Read all rows of a JSON, JSONL, CSV or Parquet file, or of a hub data set, "owner/name" or "owner/name:split".

    Raises:
        FileNotFoundError: neither a file nor a data set.
        ValueError: a file that cannot be read, with the reason.
    """
    kind = READERS.get(Path(source).suffix.lower())
    if kind is None and Path(source).exists():
        raise ValueError(f"{source}: cannot read this kind of file; give one of {', '.join(READERS)}")
    if kind is not None and not Path(source).is_file():
        raise FileNotFoundError(f"{source}: no such annotation file")
    if kind is not None and Path(source).stat().st_size == 0:
        return []
    if kind == "csv":  # as it is written: data frames would make 005 a number, and NA nothing
        with Path(source).open(newline="") as file:
            return [{name: value or None for name, value in row.items() if name} for row in csv.DictReader(file)]
    datasets_logging.disable_progress_bar()
    try:
        if kind is not None:
            return list(load_dataset(kind, data_files=source, split="train"))
        name, _, split = source.partition(":")
        return list(load_dataset(name, split=split or "test"))
    except DatasetNotFoundError as error:
        raise FileNotFoundError(f"{source}: neither a file nor a data set on the hub ({error})") from error
    except Exception as error:  # datasets wraps whatever its readers raise; the cause says what is wrong
        raise ValueError(f"{source}: cannot be read as annotations: {error.__cause__ or error}") from error
