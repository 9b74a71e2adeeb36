"""Teacher scores on disk: written once, read in any order by any number of processes.

A folder: `settings.json`, what the scores were made with; and for each process that wrote, `scores-<rank>.f16`, one
clip after another, and `index-<rank>.jsonl`, a line a clip that says where. A clip's scores are there before its line
is, so a kill loses the clip at work and nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flexselect.storage.json_lines import read_json_lines
from flexselect.storage.run_settings import UsageError, differences, read_object, write_atomically

SETTINGS = "settings.json"
INFORMATION = ("path",)  # where the model lay does not matter: its weights are hashed


def round_to_stored(scores: Tensor) -> Tensor:
    """Scores [V] as a store gives them back: float16 in units of the largest, which is kept in float32.

    Eleven significant bits down to 6e-5 of the largest; the released trainings rank eight bits. A training rounds its
    live scores so as well, and is the same whichever it uses.
    """
    packed, scale = _packed(scores)
    return packed.float() * scale


def _packed(scores: Tensor) -> tuple[Tensor, Tensor]:
    """float16 in units of the largest, and that."""
    scale = scores.max()
    return (scores / scale).half(), scale


class ScoreStore:
    """Scores by clip.

    Args:
        folder: of a store.

    Raises:
        FileNotFoundError: if it is none.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / SETTINGS).is_file():
            raise FileNotFoundError(f"{folder} is no store of teacher scores: it has no {SETTINGS}")
        self.settings = read_object(self.folder / SETTINGS)
        self._where: dict[str, dict[str, Any]] = {}
        self._files: dict[int, np.ndarray] = {}  # opened where they are read, in a worker for one
        for file in sorted(self.folder.glob("index-*.jsonl")):
            # one that was cut short by a kill, or is damaged, is not there: it is scored again
            for line in filter(_is_known, read_json_lines(file)[0]):
                if "error" not in line or line["key"] not in self._where:  # a clip that was mended meanwhile is scored
                    self._where[line["key"]] = {**line, "rank": int(file.stem[6:])}

    @classmethod
    def create(cls, folder: str | Path, settings: dict[str, Any]) -> ScoreStore:
        """Begin a store, or go on with one of the same settings.

        Raises:
            UsageError: for one of other settings, naming them.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        if (Path(folder) / SETTINGS).exists():
            cls(folder).match(settings)
        else:
            write_atomically(Path(folder) / SETTINGS, json.dumps(settings, indent=2))
        return cls(folder)

    def match(self, settings: dict[str, Any]) -> None:
        """Make sure that the scores are of these settings.

        Raises:
            UsageError: naming each setting that differs, and both its values.
        """
        ours, theirs = ({k: v for k, v in s.items() if k not in INFORMATION} for s in (self.settings, settings))
        different = differences(ours, json.loads(json.dumps(theirs)))
        if different:
            paths = (
                f"; model at {self.settings.get('path')}, at {settings.get('path')}" if "weights" in different else ""
            )
            raise UsageError(f"the teacher scores in {self.folder} were made with other settings: {different}{paths}")

    def __contains__(self, key: str) -> bool:
        """Whether a clip was scored, or found to be broken."""
        return key in self._where

    @property
    def scored(self) -> set[str]:
        """Clips that have scores."""
        return {key for key, where in self._where.items() if "error" not in where}

    @property
    def counts(self) -> tuple[int, int]:
        """How many clips have scores, and how many have a reason why not."""
        scored = len(self.scored)
        return scored, len(self._where) - scored

    def error(self, key: str) -> str | None:
        """Why a clip has no scores; None where it has some."""
        return self._where[key].get("error")

    def read(self, key: str) -> Tensor:
        """A clip's scores, float32 [V].

        Raises:
            KeyError: for a clip that has none.
            ValueError: naming the file, where it ends before them.
        """
        where = self._where[key]
        rank, first, count = where["rank"], where["first"], where["count"]
        if rank not in self._files:
            self._files[rank] = _mapped(self._path("scores", rank))
        found = self._files[rank][first : first + count]
        if len(found) < count:
            raise ValueError(f"{self._path('scores', rank)} is cut short; delete {self.folder} and score again")
        return torch.from_numpy(found.astype(np.float32)) * where["scale"]

    def writer(self, rank: int) -> ScoreWriter:
        """For one process, into files of its own."""
        return ScoreWriter(self._path("scores", rank), self._path("index", rank))

    def _path(self, kind: str, rank: int) -> Path:
        return self.folder / f"{kind}-{rank}.{'f16' if kind == 'scores' else 'jsonl'}"


def _is_known(line: Any) -> bool:
    """Whether a value is a line of an index."""
    if not isinstance(line, dict) or not isinstance(line.get("key"), str):
        return False
    numbers = [line.get(name) for name in ("first", "count", "scale")]
    known = all(isinstance(number, int | float) and number >= 0 for number in numbers)
    return isinstance(line.get("error"), str) or (known and all(isinstance(number, int) for number in numbers[:2]))


def _mapped(path: Path) -> np.ndarray:
    """All numbers of a file, read where they are needed; a number that was cut in two does not count."""
    count = path.stat().st_size // 2 if path.is_file() else 0
    return np.memmap(path, np.float16, "r", shape=(count,)) if count else np.empty(0, np.float16)


class ScoreWriter:
    """Appends to a process's two files."""

    def __init__(self, scores: Path, index: Path) -> None:
        self.scores, self.index = scores, index
        if index.exists() and not index.read_bytes().endswith(b"\n"):  # killed in a line
            whole = index.read_bytes().rpartition(b"\n")
            index.write_bytes(whole[0] + whole[1])

    def add(self, key: str, scores: Tensor) -> None:
        """Write a clip's scores, [V].

        Raises:
            ValueError: for scores that are not finite.
            OSError: naming the file, when the disk is full for one.
        """
        if not bool(scores.isfinite().all()) or not float(scores.max()) > 0:
            raise ValueError("the teacher's scores are NaN or all zero")
        packed, scale = _packed(scores)
        data = packed.cpu().numpy().tobytes()
        before = self.scores.stat().st_size if self.scores.exists() else 0
        padding = b"\0" * (before % 2)  # killed in a number
        self._append(self.scores, padding + data)
        line = {"key": key, "first": (before + len(padding)) // 2, "count": len(scores), "scale": float(scale)}
        self._append(self.index, json.dumps(line).encode() + b"\n")

    def fail(self, key: str, error: str) -> None:
        """Write down that a clip has no scores, and why."""
        self._append(self.index, json.dumps({"key": key, "error": error}).encode() + b"\n")

    def _append(self, path: Path, data: bytes) -> None:
        try:
            with path.open("ab") as file:
                file.write(data)
        except OSError as error:
            raise OSError(f"{path}: {error.strerror}; what was written stays, call again to go on") from error
