"""The interface of benchmark formats: files, rows, protocols. Members are abstract or final, as in families.

It needs no Trainer: `Benchmark` makes a data module from it, and lmms-eval's tasks convert their rows with it.
"""

from __future__ import annotations

import hashlib
import logging
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from datamodules.rows import read_rows
from flexselect.evaluation.answer_parsing import LETTERS
from flexselect.evaluation.questions import VideoQuestion
from flexselect.storage.video_paths import files_below
from flexselect.validation import check_choice

EXTENSIONS = (".mp4", ".MP4", ".mkv", ".webm", ".avi", ".mov")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Protocol:
    """How questions are asked and answers parsed, as data, so that results record the protocol they were made with.

    `paper` is the released evaluation (arXiv 2506.00993), with the defects that change its numbers; `lmms` is lmms-eval
    0.7; `plain` is this project's protocol.
    """

    template: str  # has {question}, {options}, {subtitles} and {ending}
    ending: str  # the last line of the prompt
    max_new_tokens: int
    extractor: str  # name of a parser in `flexselect.evaluation.letter_extraction`
    ending_llava: str | None = None  # the last line for LLaVA-Video, if it differs


LETTER = "Answer with the option's letter from the given choices directly."
PLAIN = Protocol("{subtitles}{question}\n{options}\n{ending}", LETTER, 16, "ours")


class BenchmarkFormat(ABC):
    """The folder of a benchmark, as downloaded, and how its questions are asked.

    Args:
        root: the folder; it need not exist if rows come from elsewhere.
        protocol: "paper", "lmms" or "plain", see `Protocol`.
        llava: whether the model is LLaVA-Video, for which `paper` has different prompts.
        repair: names of defects of the `paper` protocol to repair, see `defects`.
        unparsed: answers without a letter count as "wrong"; or "random" gives them a random letter.

    Raises:
        ValueError: if there is no such protocol or defect.
    """

    tables: tuple[str, ...]  # patterns of the table of questions; the first match is used
    authors_tables: tuple[str, ...] = ()  # patterns of the tables in the authors' layout; all matches are used
    video_folders: tuple[str, ...]  # folders that may hold the videos
    protocols: ClassVar[dict[str, Protocol]]
    # defects of `paper` that change numbers, each with the protocol fields that repair it
    defects: ClassVar[dict[str, dict[str, Any]]]
    repository: str  # the data set on the hub
    macro: str | None = None  # accuracy is the mean over the values of this group; None: over all questions

    def __init__(
        self,
        root: str | Path,
        protocol: str = "paper",
        llava: bool = False,
        repair: Sequence[str] = (),
        unparsed: str = "wrong",
    ) -> None:
        check_choice("protocol", protocol, tuple(self.protocols))
        check_choice("unparsed", unparsed, ("wrong", "random"))
        for name in repair:
            check_choice("repair", name, tuple(self.defects))
        if repair and protocol != "paper":
            raise ValueError(f"repair is for the defects of the paper protocol, not for {protocol!r}")
        self.root, self.protocol_name, self.llava = Path(root), protocol, llava
        self.repair, self.unparsed = sorted(repair), unparsed
        repaired = {name: value for defect in repair for name, value in self.defects[defect].items()}
        self.protocol = replace(self.protocols[protocol], **repaired)

    # -- abstract

    @abstractmethod
    def question(self, row: dict[str, Any]) -> VideoQuestion:
        """Convert a row of the table: id, video, question, options, answer (a letter), groups."""

    # -- may be extended

    def subtitles(self, row: dict[str, Any]) -> str:
        """Return the text before the question, for example subtitles."""
        return ""

    def rows(self, file: Path) -> Iterable[dict[str, Any]]:
        """Read the rows of a table; rows of `authors_tables` are converted to the hub's format."""
        return read_rows(str(file))

    # -- final

    def split_options(self, text: str) -> tuple[str, tuple[str, ...]]:
        """Split a question that contains its options, one "(A) ..." per line, into question and options."""
        options = tuple(re.findall(r"^\([A-Z]\) ?(.*)$", text, re.MULTILINE))
        stem = text.partition("\n(A)")[0] if self.protocol_name == "plain" else text
        return stem, options

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides how questions are asked and answers parsed, for the settings of a run."""
        asked = {"protocol": self.protocol_name, "repair": self.repair, "unparsed": self.unparsed}
        return {**asked, "max_new_tokens": self.protocol.max_new_tokens, "extractor": self.protocol.extractor}

    def read(self, limit: int | None = None) -> list[VideoQuestion]:
        """Read the questions of the table; `limit` is the number to read, from the first.

        Raises:
            FileNotFoundError: naming the folder and the patterns, if there is no table.
            ValueError: naming the file and the row, if it has another format.
        """
        files = self.files()
        name = files[0] if len(files) == 1 else files[0].parent
        kind, questions = type(self).__name__.removesuffix("Format"), list[VideoQuestion]()
        try:
            rows = [row for file in files for row in self.rows(file)]
        except KeyError as error:
            raise ValueError(f"{name} has no column {error}: it is not the table of {kind}") from error
        for row in rows[:limit]:
            try:
                questions.append(self.to_question(row))
            except KeyError as error:
                raise ValueError(f"{name} has no column {error}: it is not the table of {kind}") from error
            except (TypeError, ValueError, AttributeError, IndexError) as error:
                number = len(questions) + 1
                raise ValueError(f"row {number} of {name} is no question of {kind}: {error}") from error
        odd = [question for question in questions if question.options and None in question.expected_letters]
        if odd:
            message = "%s: %d answers are none of their options and will count as wrong; the first: question %s, %r"
            log.warning(message, name, len(odd), odd[0].id, odd[0].answer)
        return questions

    def table_hash(self) -> str:
        """Hash the table's files, 16 hex digits."""
        return hashlib.sha256(b"".join(file.read_bytes() for file in self.files())).hexdigest()[:16]

    def table(self) -> Path:
        """Return the first file with questions."""
        return self.files()[0]

    def files(self) -> list[Path]:
        """Return the files with the questions: one, or several in the authors' layout.

        Raises:
            FileNotFoundError: naming the folder and the patterns.
        """
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root} is no folder; {self._advice}")
        originals = [file for pattern in self.authors_tables for file in sorted(self.root.glob(pattern))]
        for pattern in self.tables:
            for file in sorted(set(self.root.glob(pattern)) - set(originals)):
                return [file]
        if originals:
            return originals
        patterns = ", ".join(str(self.root / pattern) for pattern in (*self.tables, *self.authors_tables))
        raise FileNotFoundError(f"no table of questions in {self.root}; looked for {patterns}; {self._advice}")

    @property
    def _advice(self) -> str:
        return f"download the data set {self.repository} into it, archives unpacked, or give --data.download true"

    def find_video(self, name: str) -> str:
        """Return a video's path relative to the root, with any extension; if it is missing, the expected path."""
        extensions = ("", *EXTENSIONS) if Path(name).suffix in EXTENSIONS else EXTENSIONS
        for folder in self.video_folders:
            for extension in extensions:
                path = Path(folder) / f"{name}{extension}"
                if (self.root / path).is_file():
                    return str(path)
        for extension in extensions:
            if f"{name}{extension}" in self._paths_by_name:
                return self._paths_by_name[f"{name}{extension}"]
        return str(Path(self.video_folders[0]) / (name if Path(name).suffix in EXTENSIONS else f"{name}.mp4"))

    @cached_property
    def _paths_by_name(self) -> dict[str, str]:
        """Paths of the videos in all folders, by file name; names that occur twice are left out."""
        paths = [path.relative_to(self.root) for path in files_below(self.root) if path.suffix in EXTENSIONS]
        twice = {name for name, count in Counter(path.name for path in paths).items() if count > 1}
        return {path.name: str(path) for path in paths if path.name not in twice}

    def to_question(self, row: dict[str, Any]) -> VideoQuestion:
        """Convert a row of the table to a question as the protocol asks it."""
        asked, protocol = self.question(row), self.protocol
        asked = replace(asked, id=str(asked.id), video=str(asked.video))
        if len(asked.options) > len(LETTERS):
            raise ValueError(f"question {asked.id} has {len(asked.options)} options; letters end at {LETTERS[-1]}")
        options = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, asked.options))
        ending = protocol.ending_llava if self.llava and protocol.ending_llava else protocol.ending
        text = protocol.template.format(
            question=asked.question,
            options=options,
            subtitles=self.subtitles(row),
            ending=ending,
        )
        length, rule, guess = protocol.max_new_tokens, protocol.extractor, self.unparsed == "random"
        return replace(asked, prompt=text, max_new_tokens=length, extractor=rule, guess=guess)
