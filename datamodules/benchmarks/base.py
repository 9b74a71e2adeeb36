"""What a benchmark must say about itself: its files, its rows, its protocols. Abstract or final, as families are."""

from __future__ import annotations

import re
from abc import abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from datamodules.question_data import QuestionData
from datamodules.rows import read_rows
from flexselect.choices import check_choice
from flexselect.families.base import VideoFamily
from flexselect.questions import VideoQuestion

ENDINGS = (".mp4", ".MP4", ".mkv", ".webm", ".avi", ".mov")


@dataclass(frozen=True)
class Protocol:
    """How a question is put and its answer read: data, so that two runs can be told apart by it.

    `paper` is the released evaluation (arXiv 2506.00993), slips included that move numbers; `plain` asks and reads as
    this project does by itself.
    """

    template: str  # with {question}, {options}, {subtitles} and {ending}
    ending: str  # what comes last
    ending_llava: str  # the same for LLaVA-Video, where it is another one
    max_new_tokens: int
    extractor: str  # see `flexselect.extraction`


LETTER = "Answer with the option's letter from the given choices directly."
PLAIN = Protocol("{subtitles}{question}\n{options}\n{ending}", LETTER, LETTER, 16, "ours")


class Benchmark(QuestionData):
    """A benchmark from a local folder, as people download it.

    Args:
        family: samples and resizes the frames; `paper` prompts LLaVA-Video in its own words.
        root: the folder.
        protocol: "paper" or "plain", see `Protocol`.
        limit: only the first so many questions.
        missing_videos: "refuse" a folder that lacks videos; or "record" them, as wrong answers with their reason.
        num_workers: processes that decode ahead.

    Raises:
        FileNotFoundError: naming what was looked for, or the videos that are missing.
    """

    tables: tuple[str, ...]  # patterns of the table of questions, the first that is there counts
    video_folders: tuple[str, ...]  # where videos may lie
    protocols: dict[str, Protocol]
    source: str  # where it is downloaded from
    macro: str | None = None  # the group whose shares are averaged; None: over all questions

    def __init__(
        self,
        family: VideoFamily,
        root: str,
        protocol: Literal["paper", "plain"] = "paper",
        limit: int | None = None,
        missing_videos: Literal["refuse", "record"] = "refuse",
        num_workers: int = 1,
    ) -> None:
        check_choice("protocol", protocol, tuple(self.protocols))
        check_choice("missing_videos", missing_videos, ("refuse", "record"))
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        self.root, self.protocol_name = Path(root), protocol
        self.protocol, self.limit = self.protocols[protocol], limit
        self.llava = family.name == "LLaVA-Video"
        rows = read_rows(str(self.table()))[:limit]
        questions = [self._put(row) for row in rows]
        missing = sorted({q.video for q in questions if not (self.root / q.video).is_file()})
        if missing and missing_videos == "refuse":
            shown = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
            raise FileNotFoundError(
                f"{root} lacks {len(missing)} of {len({q.video for q in questions})} videos: {shown}. Download them "
                f"({self.source}), or count them as wrong with --data.missing_videos record"
            )
        super().__init__(family, questions, root, num_workers)

    # -- abstract

    @abstractmethod
    def question(self, row: dict[str, Any]) -> VideoQuestion:
        """A row of the table: id, video, question, options, answer (a letter), groups."""

    def subtitles(self, row: dict[str, Any]) -> str:
        """What stands before the question. The one method that a benchmark may extend."""
        return ""

    # -- final

    def split_options(self, text: str) -> tuple[str, tuple[str, ...]]:
        """A question whose options stand in it, "(A) ..." a line: as `plain` asks it, without them; and the options."""
        options = tuple(re.findall(r"^\([A-Z]\) ?(.*)$", text, re.MULTILINE))
        stem = text.partition("\n(A)")[0] if self.protocol_name == "plain" else text
        return stem, options

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides what is asked, for the record of a run."""
        return {"benchmark": type(self).__name__, "protocol": self.protocol_name, "limit": self.limit}

    def table(self) -> Path:
        """The file with the questions.

        Raises:
            FileNotFoundError: naming where it was looked for.
        """
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root} is no folder; download {self.source} and give it as --data.root")
        for pattern in self.tables:
            for found in sorted(self.root.glob(pattern)):
                return found
        looked = ", ".join(str(self.root / pattern) for pattern in self.tables)
        raise FileNotFoundError(f"no table of questions in {self.root}; looked for {looked}. Download {self.source}")

    def find_video(self, name: str) -> str:
        """A video's path relative to the root, whatever its ending; the first place to look, if it is in none."""
        endings = ("", *ENDINGS) if Path(name).suffix in ENDINGS else ENDINGS
        for folder in self.video_folders:
            for ending in endings:
                path = Path(folder) / f"{name}{ending}"
                if (self.root / path).is_file():
                    return str(path)
        return str(Path(self.video_folders[0]) / (name if Path(name).suffix in ENDINGS else f"{name}.mp4"))

    def _put(self, row: dict[str, Any]) -> VideoQuestion:
        """A row as the protocol puts it."""
        asked, protocol = self.question(row), self.protocol
        options = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCDE", asked.options))
        text = protocol.template.format(
            question=asked.question,
            options=options,
            subtitles=self.subtitles(row),
            ending=protocol.ending_llava if self.llava else protocol.ending,
        )
        length, rule = protocol.max_new_tokens, protocol.extractor
        return replace(asked, prompt=text, max_new_tokens=length, extractor=rule)
