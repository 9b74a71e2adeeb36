"""VideoMME: 2,700 questions about 900 videos of three lengths (arXiv 2405.21075)."""

from __future__ import annotations

from typing import Any, ClassVar

from datamodules.benchmarks.base import Benchmark
from datamodules.benchmarks.format import LETTER, PLAIN, BenchmarkFormat, Protocol
from flexselect.evaluation.questions import VideoQuestion

TEMPLATE = (  # no subtitles are given, but the released evaluation and lmms-eval mention them
    "Select the best answer to the following multiple-choice question based on the video and the subtitles. "
    "Respond with only the letter (A, B, C, or D) of the correct option.\n{question}\n{options}\n{ending}"
)


class VideoMMEFormat(BenchmarkFormat):
    """The format of VideoMME."""

    repository = "lmms-eval/Video-MME"
    tables = ("videomme/test-*.parquet", "test-*.parquet", "*.parquet")
    video_folders = ("data", "videos", ".")
    protocols: ClassVar = {
        "paper": Protocol(TEMPLATE, "\n" + LETTER, 1, "first_letter", ending_llava="The best answer is:"),
        "lmms": Protocol(TEMPLATE, "\n" + LETTER, 16, "ranked"),
        "plain": PLAIN,
    }
    defects: ClassVar = {
        "says_subtitles": {"template": TEMPLATE.replace(" and the subtitles", "")},
        "joined_lead_ins": {"extractor": "first_letter_after_any_lead_in"},
        "one_token": {"max_new_tokens": 16},
    }

    def question(self, row: dict[str, Any]) -> VideoQuestion:
        """Convert a row: options are written "A. ..." in the table."""
        groups = tuple((name, str(row[name])) for name in ("duration", "domain", "sub_category", "task_type"))
        options = tuple(option.partition(". ")[2] for option in row["options"])
        video = self.find_video(str(row["videoID"]))
        return VideoQuestion(str(row["question_id"]), video, row["question"], options, row["answer"], groups=groups)


class VideoMME(Benchmark):
    """VideoMME. `root` has the hub's table and `data/<videoID>.mp4`."""

    form = VideoMMEFormat
