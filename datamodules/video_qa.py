"""Videos with questions, from annotation files, hub data sets or the command line; grouped by video."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

from datamodules.question_data import QuestionData
from datamodules.rows.questions import question_of, read_annotations
from flexselect.evaluation.questions import VideoQuestion
from flexselect.families.base import VideoFamily
from flexselect.storage.video_paths import list_videos, resolve_path
from flexselect.structures.frames import ReadOptions

log = logging.getLogger(__name__)


class VideoQADataModule(QuestionData):
    """Questions for validate and predict.

    Give either `annotations`, or `video` with `question`.

    Args:
        family: samples and resizes the frames.
        annotations: JSON, JSONL, CSV or Parquet with `id`, `video`, `question`, optional `options`, `answer`, `start`
            and `end` (seconds); or a hub data set, "owner/name" or "owner/name:split".
        video_root: folder that `video` is relative to; None: the annotation file's folder.
        video: a video file, several files, a folder, or a pattern ("talks/*.mp4").
        question: a question about each `video`, or a list of questions.
        num_workers: number of processes that decode ahead, see `QuestionData`; unused with `video`.
        columns: maps the names above to the names in the file, if they differ: {question: prompt, answer: label}.
        groups: columns for accuracy by group; None: columns with few short words; []: none.
        limit: use only this many rows, from the first; None: all.
        shard: answer only the i-th of n parts, "i/n" with i from 1; `merge` puts the parts together.
        encoding: encoding of a text file; None: detected from the first bytes.
        start: read `video` from this second on; also as minutes and seconds, 2:40.
        end: read `video` up to this second.
        track: number among a file's video tracks, from 0; None: the one that players show.
        square_pixels: stretch pixels that are not square, as players do; false: as stored, as decord does.
        reader: what decodes files: "pyav", "decord", "torchcodec", or a reader of another package.
        video_start: another name of `start`, as in Qwen's utilities.
        video_end: another name of `end`.
    """

    def __init__(
        self,
        family: VideoFamily,
        annotations: str | None = None,
        video_root: str | None = None,
        video: str | list[str] | None = None,
        question: str | list[str] | None = None,
        num_workers: int | None = None,
        columns: dict[str, str] | None = None,
        groups: str | list[str] | None = None,
        limit: int | None = None,
        shard: str | None = None,
        encoding: str | None = None,
        start: float | str | None = None,
        end: float | str | None = None,
        track: int | None = None,
        square_pixels: bool = True,
        reader: str = "pyav",
        video_start: float | str | None = None,
        video_end: float | str | None = None,
    ) -> None:
        if (annotations is None) == (video is None):
            raise ValueError("give either --data.annotations FILE, or --data.video FILE with --data.question TEXT")
        if (video is None) != (question is None):
            raise ValueError("--data.video and --data.question go together")
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        how: dict[str, Any] = {"track": track, "square_pixels": square_pixels, "reader": reader}
        reading = self.reading = ReadOptions.of(start, end, video_start, video_end, **how)
        if annotations is None:
            root = video_root or "."
            texts = [question] if isinstance(question, str) else list(question or [])
            names = [video] if isinstance(video, str) else list(video or [])
            files = _without_duplicates([file for name in names for file in list_videos(name, root)], root)
            super().__init__(family, _questions(files, texts, reading)[:limit], root, num_workers=0, shard=shard)
            return
        if reading.start is not None or reading.end is not None:
            raise ValueError(
                "--data.start and --data.end need --data.video; annotations have columns `start` and `end` instead"
            )
        root = video_root or str(resolve_path(annotations).parent)
        group_columns = [groups] if isinstance(groups, str) else groups
        rows = read_annotations(annotations, columns, group_columns, limit, encoding, reading)
        super().__init__(family, rows, root, num_workers, shard)

    @property
    def settings(self) -> dict[str, Any]:
        """Reading options that differ from their defaults."""
        return self.reading.settings


def _without_duplicates(files: list[str], root: str) -> list[str]:
    """Remove files that are named twice, or by name and by their folder."""
    unique: dict[Path, str] = {}
    for file in files:
        unique.setdefault(resolve_path(file, root).absolute(), file)
    if len(unique) < len(files):
        log.warning("%d videos are named more than once: questions about each are asked once", len(files) - len(unique))
    return list(unique.values())


def _questions(files: list[str], texts: list[str], reading: ReadOptions) -> list[VideoQuestion]:
    """Make every question about every video; ids are made from the videos' names."""
    stems = Counter(Path(file).stem for file in files)
    questions: list[VideoQuestion] = []
    for file in files:
        name = Path(file).stem if stems[Path(file).stem] == 1 else file
        for number, text in enumerate(texts, 1):
            row: dict[str, Any] = {"video": file, "question": text}
            row["id"] = name if len(texts) == 1 else f"{name}-{number}"
            questions.append(question_of(row, len(questions), reading=reading))
    return questions
