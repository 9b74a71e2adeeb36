"""Training annotations: clips with a question and an answer, in LLaVA-Video-178K's format or as plain rows."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import yaml

from datamodules.rows.conversations import COLUMNS as CONVERSATIONS
from datamodules.rows.conversations import pairs_of, without_marks
from datamodules.rows.files import read_rows
from datamodules.rows.row import Row
from datamodules.rows.text import read_text
from flexselect.storage.video_paths import resolve_path, size_of
from flexselect.validation import check_choice

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecordRules:
    """Options for converting rows to records."""

    turns: Literal["first", "all"] = "first"  # questions of a conversation to use
    unusable: Literal["refuse", "skip"] = "refuse"  # what to do with an unusable row, for example one about an image
    columns: dict[str, str] = field(default_factory=dict)  # maps video, question and answer to the names in the file
    encoding: str | None = None  # encoding of text files; None: detected from the first bytes
    needs_answers: bool = False  # whether a row without an answer is unusable

    def __post_init__(self) -> None:
        check_choice("turns", self.turns, ("first", "all"))
        check_choice("unusable", self.unusable, ("refuse", "skip"))
        for name in self.columns:
            check_choice("a name in columns", name, ("video", "question", "answer", "conversations"))


@dataclass(frozen=True)
class Record:
    """One clip with one question."""

    video: str  # the name in the annotations
    path: Path  # the video file
    question: str
    answer: str = ""

    def key(self, query: str) -> str:
        """Return the key of this clip's scores in a store; it changes with the size of the file.

        Args:
            query: the text after the clip, see `SelectorDataModule`.
        """
        size = size_of(self.path)
        text = self.question if query == "question" else f"{self.question}\0{self.answer}"
        return hashlib.sha256(f"{self.video}\0{size}\0{text}".encode(errors="surrogatepass")).hexdigest()[:20]


def read_records(
    source: str, video_root: str | None = None, seed: int = 0, rules: RecordRules | None = None
) -> list[Record]:
    """Read training annotations; sampled files give the same records in every process.

    Args:
        source: JSON, JSONL, CSV or Parquet file, or hub data set, of rows with `video` and `conversations`, or with
            `video`, `question` and `answer`; or a YAML file with a list `datasets` of {json_path, sampling_strategy:
            all | first:N | end:N | random:N, where N may be K%}.
        video_root: folder that `video` is relative to; None: the annotation file's folder.
        seed: seed of `random`.
        rules: options for converting rows; None: the defaults.

    Raises:
        FileNotFoundError: naming the missing file.
        ValueError: if the file has an unknown format or no usable row; naming the file and the row.
    """
    rules, path = rules or RecordRules(), resolve_path(source)
    root = Path(video_root) if video_root is not None else path.parent
    if not source.endswith((".yaml", ".yml")):
        records = _records(source, root, rules)
    else:
        if not path.is_file():
            raise FileNotFoundError(f"{source}: no such annotation file")
        records = []
        for part in _parts(path):
            file = str(path.parent / part["json_path"])
            records += _sampled(_records(file, root, rules), file, part.get("sampling_strategy", "all"), seed)
    if not records:
        raise ValueError(f"{source}: holds no records")
    return records


def _records(source: str, root: Path, rules: RecordRules) -> list[Record]:
    records, left_out = list[Record](), list[str]()
    for number, row in enumerate(read_rows(source, rules.encoding), 1):
        try:
            records += _to_records(row, root, rules)
        except ValueError as error:
            left_out.append(f"{source}, record {number}: {error}")
            if rules.unusable == "refuse":
                raise ValueError(f"{left_out[0]} (--data.unusable skip leaves such rows out)") from error
    if left_out:
        log.warning("%d of %s's rows are left out; the first: %s", len(left_out), source, left_out[0])
    return records


def _parts(path: Path) -> list[dict[str, str]]:
    """Read the list `datasets` of a YAML file."""
    try:
        whole = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    parts = whole.get("datasets") if isinstance(whole, dict) else None
    if not isinstance(parts, list) or not all(isinstance(part, dict) and part.get("json_path") for part in parts):
        raise ValueError(f"{path} needs a list `datasets` of {{json_path, sampling_strategy}}")
    return parts


def _to_records(row: Row, root: Path, rules: RecordRules) -> list[Record]:
    """Convert a row, which has a conversation or a question with an answer, to one record per question.

    Raises:
        ValueError: if the row has no video or no question; naming its columns.
    """
    if row.error is not None:
        raise ValueError(row.error)
    values = {name: row.get(rules.columns.get(name, name)) for name in ("video", "question", "answer", "conversations")}
    conversation = values["conversations"] or next((row[name] for name in CONVERSATIONS if row.get(name)), None)
    if conversation is not None:
        pairs = pairs_of(conversation, rules.turns == "all")
    else:
        pairs = [(without_marks(str(values["question"] or "")), str(values["answer"] or ""))]
    video = values["video"] or row.get("videos")
    if isinstance(video, list) and len(video) == 1:
        video = video[0]
    if isinstance(video, list) and len(video) > 1:
        raise ValueError(f"is about {len(video)} videos at once; a question is about one")
    if not isinstance(video, str) or not pairs[0][0]:
        image = "; it is about an image" if row.get("image") or row.get("images") else ""
        raise ValueError(f"has no video, or no question; found {', '.join(map(str, row)) or 'nothing'}{image}")
    if rules.needs_answers and not all(answer.strip() for _, answer in pairs):
        raise ValueError("has no answer, which query question_and_answer needs")
    return [Record(video, resolve_path(video, root), question, answer) for question, answer in pairs]


def _sampled(rows: list[Record], source: str, strategy: str, seed: int) -> list[Record]:
    """Take a part of a file's records: all, first:N, end:N or random:N, where N may be K%."""
    rule, _, amount = strategy.partition(":")
    if rule == "all":
        return rows
    if rule not in ("first", "end", "random") or not amount.rstrip("%").isdigit():
        raise ValueError(f"{source}: sampling_strategy {strategy!r} must be all, first:N, end:N or random:N")
    number = int(amount.rstrip("%"))
    count = min(len(rows), -(-len(rows) * number // 100) if amount.endswith("%") else number)
    if rule == "random":
        chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:count]
        return [rows[i] for i in chosen.tolist()]
    return rows[:count] if rule == "first" else rows[len(rows) - count :]
