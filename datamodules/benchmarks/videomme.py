"""VideoMME: 2,700 questions about 900 videos of three lengths (arXiv 2405.21075)."""

from __future__ import annotations

from typing import Any, ClassVar

from datamodules.benchmarks.base import LETTER, PLAIN, Benchmark, Protocol
from flexselect.questions import VideoQuestion

PREAMBLE = (  # no subtitles are given; the released evaluation says so all the same
    "Select the best answer to the following multiple-choice question based on the video and the subtitles. "
    "Respond with only the letter (A, B, C, or D) of the correct option."
)


class VideoMME(Benchmark):
    """`root` holds the table as on the hub, and `data/<videoID>.mp4`."""

    source = "the data set lmms-eval/Video-MME, its archives unpacked"
    tables = ("videomme/test-*.parquet", "test-*.parquet", "*.parquet")
    video_folders = ("data", "videos", ".")
    protocols: ClassVar = {
        "paper": Protocol(
            PREAMBLE + "\n{question}\n{options}\n{ending}", "\n" + LETTER, "The best answer is:", 1, "first_letter"
        ),
        "plain": PLAIN,
    }

    def question(self, row: dict[str, Any]) -> VideoQuestion:
        """Options are written "A. ..." in the table."""
        groups = tuple((name, str(row[name])) for name in ("duration", "domain", "sub_category", "task_type"))
        options = tuple(option.partition(". ")[2] for option in row["options"])
        video = self.find_video(str(row["videoID"]))
        return VideoQuestion(str(row["question_id"]), video, row["question"], options, row["answer"], groups=groups)
