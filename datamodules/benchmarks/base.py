"""Data module for a benchmark: its questions and videos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from datamodules.benchmarks.format import BenchmarkFormat
from datamodules.benchmarks.hub import fetch
from datamodules.question_data import QuestionData
from flexselect.families.base import VideoFamily
from flexselect.storage.video_paths import is_file
from flexselect.structures.frames import ReadOptions
from flexselect.validation import check_choice


class Benchmark(QuestionData):
    """A benchmark in a local folder, as downloaded.

    Args:
        family: samples and resizes the frames; `paper` has different prompts for LLaVA-Video.
        root: the benchmark's folder.
        protocol: "paper", "lmms" or "plain", see `Protocol`.
        limit: use only this many questions, from the first; None: all.
        shard: answer only the i-th of n parts, "i/n" with i from 1; `merge` puts the parts together.
        missing_videos: if videos are missing, "refuse" to run, or "record" the reason with a wrong answer.
        num_workers: number of processes that decode ahead, see `QuestionData`.
        repair: names of defects of the `paper` protocol to repair, see `defects`.
        unparsed: answers without a letter count as "wrong"; or "random" gives them a random letter, as the released
            LongVideoBench does. Either way they are counted.
        download: download what `root` lacks from the hub and unpack it: up to hundreds of GB.
        square_pixels: stretch pixels that are not square, as players do; false: keep them as stored, as decord
            does. The published numbers were made with decord.
        reader: what decodes files: "pyav", "decord", "torchcodec", or a reader of another package.

    Raises:
        FileNotFoundError: naming the missing table or videos.
    """

    form: ClassVar[type[BenchmarkFormat]]
    variant: Mapping[str, Any] = MappingProxyType({})  # options of one format only, for the settings of a run

    def __init__(
        self,
        family: VideoFamily,
        root: str,
        protocol: Literal["paper", "lmms", "plain"] = "paper",
        limit: int | None = None,
        missing_videos: Literal["refuse", "record"] = "refuse",
        num_workers: int | None = None,
        repair: str | list[str] | None = None,
        unparsed: Literal["wrong", "random"] = "wrong",
        download: bool = False,
        square_pixels: bool = True,
        reader: str = "pyav",
        shard: str | None = None,
    ) -> None:
        check_choice("missing_videos", missing_videos, ("refuse", "record"))
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        repair = [repair] if isinstance(repair, str) else repair or []
        llava = family.name == "LLaVA-Video"
        self.limit, self.format = limit, self.form(root, protocol, llava, repair, unparsed, **self.variant)
        self.macro = self.format.macro
        if download:
            fetch(self.format.repository, self.format.root)
        self.table_hash = self.format.table_hash()
        self.reading = ReadOptions(square_pixels=square_pixels, reader=reader)
        questions = [replace(question, reading=self.reading) for question in self.format.read(limit)]
        missing = sorted({q.video for q in questions if not is_file(self.format.root / q.video)})
        if missing and missing_videos == "refuse":
            shown = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
            raise FileNotFoundError(
                f"{root} lacks {len(missing)} of {len({q.video for q in questions})} videos: {shown}. Download them "
                f"(the data set {self.format.repository}), or count them as wrong with --data.missing_videos record"
            )
        super().__init__(family, questions, root, num_workers, shard)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides what is asked, for the settings of a run."""
        known = {"benchmark": type(self).__name__, **self.format.settings, **self.variant, **self.reading.settings}
        return {**known, "limit": self.limit, "table": self.table_hash}
