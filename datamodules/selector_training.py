"""Clips with questions for training a selector, from annotations as LLaVA-Video-178K has them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.video import VideoError, read_video
from flexselect.families.base import VideoFamily
from flexselect.prompt import VideoPrompt

logger = logging.getLogger(__name__)
Record = dict[str, str]  # video, question, answer


class SelectorDataModule(LightningDataModule):
    """Prompts for fit and validate, each epoch in a new order that only `seed` decides, shared out over processes.

    A clip that cannot be decoded is logged with its reason, and the one after it in the order takes its place.

    Args:
        family: samples, resizes and writes prompts; its `fps: .inf` with `max_frames` takes that many evenly.
        annotations: of fit: JSON or JSONL of records with `video` and `conversations`, or with `video`, `question` and
            `answer`; or YAML, a list `datasets` of {json_path, sampling_strategy: all | first:N | end:N | random:N,
            where N may be K%}.
        val_annotations: of validate, the same; None: no validation.
        video_root: folder that `video` is relative to; None: the annotation file's folder.
        batch_size: clips a step.
        query: what the teacher and the selector read after the clip: "question", as when answering, or
            "question_and_answer", as the released training.
        num_workers: processes that decode.
        seed: of sampling and order.
    """

    def __init__(
        self,
        family: VideoFamily,
        annotations: str,
        val_annotations: str | None = None,
        video_root: str | None = None,
        batch_size: int = 1,
        query: Literal["question", "question_and_answer"] = "question",
        num_workers: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.family, self.batch_size, self.query = family, batch_size, query
        self.num_workers, self.seed = num_workers, seed
        self.records = read_records(annotations, seed)
        self.val_records = read_records(val_annotations, seed) if val_annotations else []
        self.roots = [Path(video_root or Path(source).parent) for source in (annotations, val_annotations or "")]

    def train_dataloader(self) -> DataLoader:
        """Lists of `VideoPrompt`."""
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        order = _Order(self, len(self.records), rank, world)
        return self._loader(_Prompts(self.family, self.records, self.roots[0], self.query), order)

    def val_dataloader(self) -> DataLoader | list:
        """The same, in the order of the file."""
        if not self.val_records:
            return []
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        mine = list(range(len(self.val_records)))[rank::world]
        return self._loader(_Prompts(self.family, self.val_records, self.roots[1], self.query), mine)

    def _loader(self, prompts: Dataset, order: Any) -> DataLoader:
        return DataLoader(
            prompts, batch_size=self.batch_size, sampler=order, collate_fn=list, num_workers=self.num_workers
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave frames where they are: the tower takes them chunk by chunk."""
        return batch


class _Order(Sampler):
    """A permutation of its own each epoch; every process takes its share of the same one, all of one length."""

    def __init__(self, data: SelectorDataModule, size: int, rank: int, world: int) -> None:
        self.data, self.size, self.rank, self.world = data, size, rank, world

    def __len__(self) -> int:
        return self.size // self.world

    def __iter__(self) -> Iterator[int]:
        epoch = self.data.trainer.current_epoch if self.data.trainer else 0
        generator = torch.Generator().manual_seed(self.data.seed * 100_003 + epoch)
        order = torch.randperm(self.size, generator=generator)[self.rank :: self.world]
        return iter(order[: len(self)].tolist())


class _Prompts(Dataset):
    """Decoded clips with their text."""

    def __init__(self, family: VideoFamily, records: list[Record], root: Path, query: str) -> None:
        self.family, self.records, self.root, self.query = family, records, root, query
        self.prompter: Any = None  # built in the worker

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> VideoPrompt:
        self.prompter = self.prompter or self.family.prompter()
        for tried in range(len(self.records)):
            record = self.records[(index + tried) % len(self.records)]
            try:
                frames, seconds = read_video(self.root / record["video"], self.family.sample, self.prompter.resize)
            except VideoError as error:
                logger.warning("left out: %s", error)
                continue
            query = self.prompter.query_ids(record["question"])
            if self.query == "question_and_answer":
                query = torch.cat([query, self.prompter.answer_ids(record["answer"])])
            return VideoPrompt(self.prompter.clip(frames, seconds), self.prompter.prefix_ids, query)
        raise ValueError(f"none of the {len(self.records)} clips under {self.root} can be decoded")


def read_records(source: str, seed: int = 0) -> list[Record]:
    """Read annotations of any of the forms that `SelectorDataModule` takes; sampling is the same in every process.

    Raises:
        FileNotFoundError: naming the file.
        ValueError: a file that is of none of the forms, or holds nothing; naming the file and the row.
    """
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"{source}: no such annotation file")
    if path.suffix in (".yaml", ".yml"):
        parts = yaml.safe_load(path.read_text()).get("datasets") or []
        found = [
            _sampled(path.parent / part["json_path"], part.get("sampling_strategy", "all"), seed) for part in parts
        ]
        records = [record for part in found for record in part]
    else:
        records = _rows(path)
    if not records:
        raise ValueError(f"{source}: holds no records")
    return records


def _rows(path: Path) -> list[Record]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such annotation file")
    try:
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        else:
            rows = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: cannot be read as annotations: {error}") from error
    return [_record(row, f"{path}, record {number + 1}") for number, row in enumerate(rows)]


def _record(row: dict[str, Any], where: str) -> Record:
    """A conversation's first question and answer, placeholders left out; or the row's own."""
    if "conversations" in row:
        said = [turn["value"] for turn in row["conversations"][:2]]
        question, answer = (*said, "", "")[:2]
        for placeholder in ("<image>", "<video>"):
            question = question.replace(placeholder, "")
    else:
        question, answer = str(row.get("question") or ""), str(row.get("answer") or "")
    if not row.get("video") or not question.strip():
        raise ValueError(f"{where}: has no video, or no question")
    return {"video": str(row["video"]), "question": question.strip(), "answer": answer}


def _sampled(path: Path, strategy: str, seed: int) -> list[Record]:
    """Some of a file's records: all, first:N, end:N or random:N, where N may be K%."""
    rows = _rows(path)
    how, _, amount = strategy.partition(":")
    if how == "all":
        return rows
    if how not in ("first", "end", "random") or not amount.rstrip("%").isdigit():
        raise ValueError(f"{path}: sampling_strategy {strategy!r} is none of all, first:N, end:N, random:N")
    number = int(amount.rstrip("%"))
    count = min(len(rows), -(-len(rows) * number // 100) if amount.endswith("%") else number)
    if how == "random":
        chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:count]
        return [rows[i] for i in chosen.tolist()]
    return rows[:count] if how == "first" else rows[len(rows) - count :]
