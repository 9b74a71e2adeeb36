"""MLVU, dev: 2,174 multiple-choice questions of seven types (arXiv 2406.04264); M-Avg is the mean over the types."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from datamodules.benchmarks.base import Benchmark
from datamodules.benchmarks.format import LETTER, PLAIN, BenchmarkFormat, Protocol
from flexselect.evaluation.answer_parsing import LETTERS
from flexselect.evaluation.questions import VideoQuestion
from flexselect.storage.video_paths import is_file

BEST = LETTER.replace("the option's", "the best option's")


class MLVUFormat(BenchmarkFormat):
    """The format of MLVU.

    Of the authors' files, the seven with multiple choice are read. Files 8 and 9 ask for descriptions and are left out.
    """

    repository = "sy1998/MLVU_dev"
    tables = ("mlvu/test-*.parquet", "data/test-*.parquet", "test-*.parquet", "*.parquet")
    authors_tables = ("json/[1-7]_*.json", "MLVU/json/[1-7]_*.json")
    video_folders = (".", "video", "videos", "mlvu_dev")
    macro = "task_type"
    protocols: ClassVar = {
        "paper": Protocol("\n{question}\n" + BEST + "\n{ending}", "Best option: (", 16, "before_bracket"),
        "lmms": Protocol("{question}\nOnly give the best option.\n{ending}", "Best option: (", 16, "ranked"),
        "plain": PLAIN,
    }
    defects: ClassVar = {
        "empty_line": {"template": "{question}\n" + BEST + "\n{ending}"},
        "letter_or_bracket": {"extractor": "ours"},  # as released, "B. text" is not parsed
    }

    def rows(self, file: Path) -> Iterable[dict[str, Any]]:
        """Read an authors' file: a list of {video, question, candidates, answer} of one type."""
        rows = super().rows(file)
        if file.suffix != ".json":
            return rows
        folder = file.parents[1].relative_to(self.root) / "video" / file.stem
        return [_to_hub_row(row, folder) for row in rows]

    def question(self, row: dict[str, Any]) -> VideoQuestion:
        """Convert a row: the question contains its options."""
        text, options = self.split_options(row["question"])
        folder = row.get("folder")
        exists = folder is not None and is_file(self.root / folder / row["video_name"])
        video = f"{folder}/{row['video_name']}" if exists else self.find_video(str(row["video_name"]))
        name = f"{row['video_name']}-{row['question'].partition(chr(10))[0]}"
        kind = (("task_type", str(row["task_type"])),)
        return VideoQuestion(name, video, text, options, row["answer"], error=row.get("error"), groups=kind)


class MLVU(Benchmark):
    """MLVU. `root` has the hub's table and the videos, in any folder; or the authors' `json/` and `video/`."""

    form = MLVUFormat


def _to_hub_row(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Convert a row of the authors to the hub's format: candidates in the question, the answer as a letter."""
    options = [str(option) for option in row["candidates"]]
    listed = "".join(f"\n({letter}) {option}" for letter, option in zip(LETTERS, options))
    known = str(row["answer"]) in options
    return {
        "video_name": str(row["video"]),
        "folder": str(folder),
        "question": f"{row['question']}{listed}",
        "answer": LETTERS[options.index(str(row["answer"]))] if known else None,
        "error": None if known else f"the answer {row['answer']!r} is none of its candidates",
        "task_type": folder.name.partition("_")[2],
    }
