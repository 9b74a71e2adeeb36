"""Training annotations: clips with a question and an answer, in the forms that LLaVA-Video-178K has, or any rows."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from datamodules.rows import read_rows


@dataclass(frozen=True)
class Record:
    """One clip with one question."""

    video: str  # as the annotations have it
    path: Path  # the file
    question: str
    answer: str = ""

    def key(self, query: str) -> str:
        """What scores of this clip are stored under; another when the file's size has changed.

        Args:
            query: what is read after the clip, see `SelectorDataModule`.
        """
        size = self.path.stat().st_size if self.path.is_file() else 0
        text = self.question if query == "question" else f"{self.question}\0{self.answer}"
        return hashlib.sha256(f"{self.video}\0{size}\0{text}".encode()).hexdigest()[:20]


def read_records(source: str, video_root: str | None = None, seed: int = 0) -> list[Record]:
    """Read annotations; sampling is the same in every process.

    Args:
        source: JSON, JSONL, CSV or Parquet, or a hub data set, of rows with `video` and `conversations`, or with
            `video`, `question` and `answer`; or YAML, a list `datasets` of {json_path, sampling_strategy: all | first:N
            | end:N | random:N, where N may be K%}.
        video_root: folder that `video` is relative to; None: the annotation file's folder.
        seed: of `random`.

    Raises:
        FileNotFoundError: naming the file.
        ValueError: a file that is of none of the forms, or holds nothing; naming the file and the row.
    """
    root = Path(video_root if video_root is not None else Path(source).parent)
    if not source.endswith((".yaml", ".yml")):
        records = _records(source, root)
    else:
        if not Path(source).is_file():
            raise FileNotFoundError(f"{source}: no such annotation file")
        records = []
        for part in _parts(source):
            path = str(Path(source).parent / part["json_path"])
            records += _sampled(_records(path, root), path, part.get("sampling_strategy", "all"), seed)
    if not records:
        raise ValueError(f"{source}: holds no records")
    return records


def _records(source: str, root: Path) -> list[Record]:
    rows = _json(Path(source)) if source.endswith((".json", ".jsonl")) else read_rows(source)
    return [_record(row, root, f"{source}, record {number + 1}") for number, row in enumerate(rows)]


def _parts(source: str) -> list[dict[str, str]]:
    """The list of a YAML."""
    try:
        whole = yaml.safe_load(Path(source).read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{source} is no YAML: {error}") from error
    parts = whole.get("datasets") if isinstance(whole, dict) else None
    if not isinstance(parts, list) or not all(isinstance(part, dict) and part.get("json_path") for part in parts):
        raise ValueError(f"{source} needs a list `datasets` of {{json_path, sampling_strategy}}")
    return parts


def _json(path: Path) -> list[dict[str, Any]]:
    """Rows need not all have the same form here, as they must in a data frame."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such annotation file")
    rows, where = [], ""
    try:
        if path.suffix == ".json":
            return json.loads(path.read_text())
        for number, line in enumerate(path.read_text().splitlines()):
            where = f", line {number + 1}"
            rows += [json.loads(line)] if line.strip() else []
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}{where}: cannot be read as annotations: {error}") from error
    return rows


def _record(row: dict[str, Any], root: Path, where: str) -> Record:
    """A conversation's first question and answer, placeholders left out; or the row's own."""
    if row.get("conversations"):
        question, answer = (*[turn["value"] for turn in row["conversations"][:2]], "", "")[:2]
    else:
        question, answer = str(row.get("question") or ""), str(row.get("answer") or "")
    for placeholder in ("<image>", "<video>"):
        question = question.replace(placeholder, "")
    if not row.get("video") or not question.strip():
        raise ValueError(f"{where}: has no video, or no question")
    return Record(str(row["video"]), root / str(row["video"]), question.strip(), answer)


def _sampled(rows: list[Record], source: str, strategy: str, seed: int) -> list[Record]:
    """Some of a file's records: all, first:N, end:N or random:N, where N may be K%."""
    how, _, amount = strategy.partition(":")
    if how == "all":
        return rows
    if how not in ("first", "end", "random") or not amount.rstrip("%").isdigit():
        raise ValueError(f"{source}: sampling_strategy {strategy!r} is none of all, first:N, end:N, random:N")
    number = int(amount.rstrip("%"))
    count = min(len(rows), -(-len(rows) * number // 100) if amount.endswith("%") else number)
    if how == "random":
        chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:count]
        return [rows[i] for i in chosen.tolist()]
    return rows[:count] if how == "first" else rows[len(rows) - count :]
