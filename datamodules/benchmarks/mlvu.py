"""MLVU, dev: 2,174 multiple-choice questions of seven types (arXiv 2406.04264); M-Avg is the mean over the types."""

from __future__ import annotations

from typing import Any, ClassVar

from datamodules.benchmarks.base import LETTER, PLAIN, Benchmark, Protocol
from flexselect.questions import VideoQuestion

BEST = LETTER.replace("the option's", "the best option's")


class MLVU(Benchmark):
    """`root` holds the table as on the hub, and the videos by name."""

    repository = "sy1998/MLVU_dev"
    tables = ("mlvu/test-*.parquet", "data/test-*.parquet", "test-*.parquet", "*.parquet")
    video_folders = (".", "video", "videos", "mlvu_dev")
    macro = "task_type"
    protocols: ClassVar = {
        "paper": Protocol("\n{question}\n" + BEST + "\n{ending}", "Best option: (", 16, "before_bracket"),
        "lmms": Protocol("{question}\nOnly give the best option.\n{ending}", "Best option: (", 16, "ranked"),
        "plain": PLAIN,
    }
    defects: ClassVar = {
        "empty_line": {"template": "{question}\n" + BEST + "\n{ending}"},
        "letter_or_bracket": {"extractor": "ours"},  # released: "B. text" is read as nothing
    }

    def question(self, row: dict[str, Any]) -> VideoQuestion:
        """Options stand in the question."""
        text, options = self.split_options(row["question"])
        video, kind = self.find_video(str(row["video_name"])), (("task_type", str(row["task_type"])),)
        name = f"{row['video_name']}-{row['question'].partition(chr(10))[0]}"
        return VideoQuestion(name, video, text, options, row["answer"], groups=kind)
