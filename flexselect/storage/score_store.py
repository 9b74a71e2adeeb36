"""Teacher scores on disk: written once, read in any order by any number of processes.

A store is a folder. `settings.json` holds what the scores were made with. Each process that writes has two files:
`scores-<rank>.f16` holds the scores of one clip after another, and `index-<rank>.jsonl` has one line per clip with the
position of its scores. The scores are written before the line, so that a kill loses only the current clip.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flexselect.storage.json_lines import read_json_lines
from flexselect.storage.run_settings import UsageError, describe_differences, read_json_object, write_atomically

SETTINGS = "settings.json"
NOT_COMPARED = ("path",)  # the location of the model does not matter, because its weights are hashed


def round_to_stored(scores: Tensor) -> Tensor:
    """Round scores [V] to what a store returns: float16 in units of the largest score, which is kept in float32.

    This keeps eleven significant bits down to 6e-5 of the largest score; the released trainings rank eight bits.
    Training rounds live scores in the same way, so that live and stored scores give the same result.
    """
    packed, scale = _pack(scores)
    return packed.float() * scale


def _pack(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores as float16 in units of the largest score, and the largest score."""
    scale = scores.max()
    return (scores / scale).half(), scale


class ScoreStore:
    """Teacher scores by clip.

    Args:
        folder: folder of a store.

    Raises:
        FileNotFoundError: if the folder is not a store.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / SETTINGS).is_file():
            raise FileNotFoundError(f"{folder} is no store of teacher scores: it has no {SETTINGS}")
        self.settings = read_json_object(self.folder / SETTINGS)
        self._entries: dict[str, dict[str, Any]] = {}  # line of the index and rank, by key of the clip
        self._files: dict[int, np.ndarray] = {}  # opened on the first read, for example in a DataLoader worker
        for file in sorted(self.folder.glob("index-*.jsonl")):
            # a line that is damaged or was cut short by a kill is ignored, so that its clip is scored again
            for line in filter(_is_entry, read_json_lines(file)[0]):
                if "error" not in line or line["key"] not in self._entries:  # scores count more than an error
                    self._entries[line["key"]] = {**line, "rank": int(file.stem[6:])}

    @classmethod
    def create(cls, folder: str | Path, settings: dict[str, Any]) -> ScoreStore:
        """Create a store, or open an existing one with the same settings.

        Raises:
            UsageError: if the existing store has other settings, naming them.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        if (Path(folder) / SETTINGS).exists():
            cls(folder).match(settings)
        else:
            write_atomically(Path(folder) / SETTINGS, json.dumps(settings, indent=2))
        return cls(folder)

    def match(self, settings: dict[str, Any]) -> None:
        """Check that the scores were made with these settings.

        Raises:
            UsageError: naming each setting that differs, with both values.
        """
        stored, requested = ({k: v for k, v in s.items() if k not in NOT_COMPARED} for s in (self.settings, settings))
        different = describe_differences(stored, json.loads(json.dumps(requested)))
        if different:
            paths = (
                f"; model at {self.settings.get('path')}, at {settings.get('path')}" if "weights" in different else ""
            )
            raise UsageError(f"the teacher scores in {self.folder} were made with other settings: {different}{paths}")

    def __contains__(self, key: str) -> bool:
        """Return whether the store has an entry for a clip: its scores, or the error that prevented them."""
        return key in self._entries

    @property
    def scored(self) -> set[str]:
        """Keys of the clips that have scores."""
        return {key for key, entry in self._entries.items() if "error" not in entry}

    @property
    def counts(self) -> tuple[int, int]:
        """Number of clips with scores, and number of clips with an error instead."""
        scored = len(self.scored)
        return scored, len(self._entries) - scored

    def error(self, key: str) -> str | None:
        """Return why a clip has no scores; None if it has scores."""
        return self._entries[key].get("error")

    def read(self, key: str) -> Tensor:
        """Return a clip's scores, float32 [V].

        Raises:
            KeyError: if the clip has no scores.
            ValueError: naming the file, if it ends before the scores do.
        """
        entry = self._entries[key]
        rank, first, count = entry["rank"], entry["first"], entry["count"]
        if rank not in self._files:
            self._files[rank] = _map_scores(self._path("scores", rank))
        packed = self._files[rank][first : first + count]
        if len(packed) < count:
            raise ValueError(f"{self._path('scores', rank)} is cut short; delete {self.folder} and score again")
        return torch.from_numpy(packed.astype(np.float32)) * entry["scale"]

    def writer(self, rank: int) -> ScoreWriter:
        """Return the writer of one process; each process writes to separate files."""
        return ScoreWriter(self._path("scores", rank), self._path("index", rank))

    def _path(self, kind: str, rank: int) -> Path:
        return self.folder / f"{kind}-{rank}.{'f16' if kind == 'scores' else 'jsonl'}"


def _is_entry(line: Any) -> bool:
    """Return whether a value is a valid line of an index."""
    if not isinstance(line, dict) or not isinstance(line.get("key"), str):
        return False
    numbers = [line.get(name) for name in ("first", "count", "scale")]
    is_scored = all(isinstance(number, int | float) and number >= 0 for number in numbers)
    return isinstance(line.get("error"), str) or (is_scored and all(isinstance(number, int) for number in numbers[:2]))


def _map_scores(path: Path) -> np.ndarray:
    """Map a file of float16 numbers into memory; a last number that was cut in two is left out."""
    count = path.stat().st_size // 2 if path.is_file() else 0
    return np.memmap(path, np.float16, "r", shape=(count,)) if count else np.empty(0, np.float16)


class ScoreWriter:
    """Writer of one process's scores: appends to its two files.

    Args:
        scores: the file of numbers.
        index: the file with one line per clip.
    """

    def __init__(self, scores: Path, index: Path) -> None:
        self.scores, self.index = scores, index
        if index.exists() and not index.read_bytes().endswith(b"\n"):  # a kill cut the last line
            lines, end, _ = index.read_bytes().rpartition(b"\n")
            index.write_bytes(lines + end)

    def add(self, key: str, scores: Tensor) -> None:
        """Write a clip's scores [V].

        Raises:
            ValueError: if the scores are not finite, or all zero.
            OSError: naming the file, for example if the disk is full.
        """
        if not bool(scores.isfinite().all()) or not float(scores.max()) > 0:
            raise ValueError("the teacher's scores are NaN or all zero")
        packed, scale = _pack(scores)
        data = packed.cpu().numpy().tobytes()
        size = self.scores.stat().st_size if self.scores.exists() else 0
        padding = b"\0" * (size % 2)  # a kill cut the last number in two
        self._append(self.scores, padding + data)
        line = {"key": key, "first": (size + len(padding)) // 2, "count": len(scores), "scale": float(scale)}
        self._append(self.index, json.dumps(line).encode() + b"\n")

    def fail(self, key: str, error: str) -> None:
        """Write the reason why a clip has no scores."""
        self._append(self.index, json.dumps({"key": key, "error": error}).encode() + b"\n")

    def _append(self, path: Path, data: bytes) -> None:
        try:
            with path.open("ab") as file:
                file.write(data)
        except OSError as error:
            raise OSError(f"{path}: {error.strerror}; what was written stays, call again to go on") from error
