"""Videos with questions, from annotation files, hub data sets or the command line; grouped by video."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

from datamodules.question_data import QuestionData
from datamodules.rows import read_rows
from flexselect.families.base import VideoFamily
from flexselect.questions import VideoQuestion

REQUIRED = ("id", "video", "question")


class VideoQADataModule(QuestionData):
    """Questions for validate and predict.

    Give either `annotations`, or `video` with `question`.

    Args:
        family: samples and resizes the frames.
        annotations: JSON, JSONL, CSV or Parquet with `id`, `video`, `question`, optional `options` and `answer`; or a
            hub data set, "owner/name" or "owner/name:split".
        video_root: folder that `video` is relative to; None: the annotation file's folder.
        video: one video file.
        question: one question about `video`, or several as a list.
        num_workers: processes that decode ahead, see `QuestionData`; with `video` there is nothing to decode ahead.
    """

    def __init__(
        self,
        family: VideoFamily,
        annotations: str | None = None,
        video_root: str | None = None,
        video: str | None = None,
        question: str | list[str] | None = None,
        num_workers: int = 1,
    ) -> None:
        if (annotations is None) == (video is None):
            raise ValueError("give either --data.annotations FILE, or --data.video FILE with --data.question TEXT")
        if (video is None) != (question is None):
            raise ValueError("--data.video and --data.question go together")
        if annotations is not None:
            root = video_root or str(Path(annotations).parent)
            super().__init__(family, read_annotations(annotations), root, num_workers)
        else:
            asked = [question] if isinstance(question, str) else list(question or [])
            questions = [_checked({"id": str(i), "video": video, "question": q}) for i, q in enumerate(asked)]
            super().__init__(family, questions, video_root or ".", num_workers=0)


def read_annotations(source: str) -> list[VideoQuestion]:
    """Read rows; one with a missing field is kept, with its `error` set.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that cannot be parsed at all, or holds no rows.
    """
    rows = read_rows(source)
    if not rows:
        raise ValueError(f"{source}: holds no rows")
    if not any(row.get(name) for row in rows for name in REQUIRED):
        raise ValueError(f"{source}: has no columns {', '.join(REQUIRED)}; found {', '.join(map(str, rows[0]))}")
    return _told_apart([_checked(row, number) for number, row in enumerate(rows)])


def _told_apart(questions: list[VideoQuestion]) -> list[VideoQuestion]:
    """A row that repeats another one is not asked twice: it gets an id of its own, and an error."""
    first: dict[tuple[str, str, str], int] = {}
    for i, question in enumerate(questions):
        if first.setdefault(question.key, i) != i:
            error = f"row {i + 1} of the annotations repeats id, video and question of row {first[question.key] + 1}"
            questions[i] = replace(question, id=f"{question.id}#row-{i + 1}", error=error)
    return questions


def _checked(row: dict[str, Any], number: int = 0) -> VideoQuestion:
    """A row as a question; what is missing is said in `error`."""
    missing = [name for name in REQUIRED if row.get(name) is None]
    error = f"row {number + 1} of the annotations has no {' and no '.join(missing)}" if missing else None
    if error is None and not str(row["question"]).strip():
        error = "the question is empty"
    answer = row.get("answer")
    try:
        options = _options(row.get("options"))
    except ValueError as problem:
        options, error = (), error or f"row {number + 1} of the annotations: {problem}"
    question = VideoQuestion(
        id=str(row.get("id") if row.get("id") is not None else f"row-{number + 1}"),
        video=str(row.get("video") or ""),
        question=str(row.get("question") or ""),
        options=options,
        answer=None if answer is None else str(answer),
        error=error,
    )
    if error is None and options and answer is not None and question.expected_letter is None:
        error = f"row {number + 1} of the annotations: the answer {answer!r} is none of its options"
        question = replace(question, error=error)
    return question


def _options(value: Any) -> tuple[str, ...]:
    """Options as a list, or in a CSV as a written list or separated by "|"."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value) if value.startswith("[") else value.split("|")
        except (ValueError, SyntaxError) as error:
            raise ValueError(f"the options {value!r} are no list") from error
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) == 1:
        raise ValueError(f"the options must be a list of two or more, got {value!r}")
    return tuple(map(str, value))
