"""LVBench: 1,549 questions about 103 videos of about an hour (arXiv 2406.08035)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from datamodules.benchmarks.base import Benchmark
from datamodules.benchmarks.format import LETTER, PLAIN, BenchmarkFormat, Protocol
from flexselect.evaluation.questions import VideoQuestion

TEMPLATE = (
    "Select the best answer to the following multiple-choice question based on the video. "
    "Respond with only the letter (A, B, C, or D) of the correct option.\n{question}\n{ending}"
)


class LVBenchFormat(BenchmarkFormat):
    """The format of LVBench."""

    repository = "lmms-eval/LVBench"
    tables = ("test.jsonl", "data/test-*.parquet", "test-*.parquet", "data/train-*.parquet", "*.jsonl", "*.parquet")
    authors_tables = ("video_info.meta.jsonl", "data/video_info.meta.jsonl")
    video_folders = ("data", "videos", "all_videos", ".")
    protocols: ClassVar = {
        "paper": Protocol(TEMPLATE, "\n" + LETTER, 1, "first_letter", ending_llava="The best answer is:"),
        "lmms": Protocol("{question}\n{ending}", "Answer the question with the option letter", 16, "ranked"),
        "plain": PLAIN,
    }
    defects: ClassVar = {
        "joined_lead_ins": {"extractor": "first_letter_after_any_lead_in"},
        "one_token": {"max_new_tokens": 16},
    }

    def rows(self, file: Path) -> Iterable[dict[str, Any]]:
        """Read the rows of a table; in the authors' table, a video's questions are under `qa`."""
        return [{**row, **asked} for row in super().rows(file) for asked in row.get("qa") or [{}]]

    def question(self, row: dict[str, Any]) -> VideoQuestion:
        """Convert a row: the question contains its options. The released evaluation removes brackets around letters."""
        text, options = self.split_options(row["question"])
        if self.protocol_name == "paper":
            text = re.sub(r"\(([A-D])\)", r"\1", text)
        groups = (("question_type", str(row["question_type"][0])), ("type", str(row["type"])))
        video = self.find_video(str(row.get("key") or row["video_path"]))
        return VideoQuestion(str(row["uid"]), video, text, options, row["answer"], groups=groups)


class LVBench(Benchmark):
    """LVBench. `root` has the table (one row per question; in the authors' layout, per video) and `data/<key>.mp4`."""

    form = LVBenchFormat
