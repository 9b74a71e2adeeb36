"""What a benchmark must say about itself: its files, its rows, its protocols. Abstract or final, as families are.

It knows no Trainer: `Benchmark` makes a data module of it, and lmms-eval's tasks put their own rows through it.
"""

from __future__ import annotations

import hashlib
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

ENDINGS = (".mp4", ".MP4", ".mkv", ".webm", ".avi", ".mov")


@dataclass(frozen=True)
class Protocol:
    """How a question is put and its answer read: data, so that two runs can be told apart by it.

    `paper` is the released evaluation (arXiv 2506.00993), slips included that move numbers; `lmms` is lmms-eval 0.7 as
    it stands; `plain` asks and reads as this project does by itself.
    """

    template: str  # with {question}, {options}, {subtitles} and {ending}
    ending: str  # what comes last
    max_new_tokens: int
    extractor: str  # see `flexselect.evaluation.letter_extraction`
    ending_llava: str | None = None  # of LLaVA-Video, where it is another one


LETTER = "Answer with the option's letter from the given choices directly."
PLAIN = Protocol("{subtitles}{question}\n{options}\n{ending}", LETTER, 16, "ours")


class BenchmarkFormat(ABC):
    """A benchmark's folder, as people download it, and how its questions are put.

    Args:
        root: the folder; it need not exist where only rows from elsewhere are put.
        protocol: "paper", "lmms" or "plain", see `Protocol`.
        llava: whether the model is LLaVA-Video, which `paper` prompts in its own words.
        repair: defects of the `paper` protocol to do without, by their names in `defects`.
        unparsed: answers without a letter are "wrong", or "random": a letter by chance.

    Raises:
        ValueError: for a protocol or a defect that there is not.
    """

    tables: tuple[str, ...]  # patterns of the table of questions, the first that is there counts
    authors_tables: tuple[str, ...] = ()  # the same in its authors' own layout; all that are there count
    video_folders: tuple[str, ...]  # where videos may lie
    protocols: ClassVar[dict[str, Protocol]]
    defects: ClassVar[dict[str, dict[str, Any]]]  # of `paper`, that move numbers: what is otherwise without each
    repository: str  # the data set on the hub
    macro: str | None = None  # the group whose shares are averaged; None: over all questions

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
        mended = {name: value for defect in repair for name, value in self.defects[defect].items()}
        self.protocol = replace(self.protocols[protocol], **mended)

    # -- abstract

    @abstractmethod
    def question(self, row: dict[str, Any]) -> VideoQuestion:
        """A row of the table: id, video, question, options, answer (a letter), groups."""

    # -- what a benchmark may extend

    def subtitles(self, row: dict[str, Any]) -> str:
        """What stands before the question."""
        return ""

    def rows(self, file: Path) -> Iterable[dict[str, Any]]:
        """The rows of a table; those of `authors_tables` as the table on the hub would have them."""
        return read_rows(str(file))

    # -- final

    def split_options(self, text: str) -> tuple[str, tuple[str, ...]]:
        """A question whose options stand in it, "(A) ..." a line: as `plain` asks it, without them; and the options."""
        options = tuple(re.findall(r"^\([A-Z]\) ?(.*)$", text, re.MULTILINE))
        stem = text.partition("\n(A)")[0] if self.protocol_name == "plain" else text
        return stem, options

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides how a question is put and its answer read, for the record of a run."""
        asked = {"protocol": self.protocol_name, "repair": self.repair, "unparsed": self.unparsed}
        return {**asked, "max_new_tokens": self.protocol.max_new_tokens, "extractor": self.protocol.extractor}

    def read(self, limit: int | None = None) -> list[VideoQuestion]:
        """The questions of the table, the first so many.

        Raises:
            FileNotFoundError: naming where the table was looked for.
            ValueError: for another table.
        """
        files = self.files()
        try:
            rows = [row for file in files for row in self.rows(file)]
            return [self.to_question(row) for row in rows[:limit]]
        except KeyError as error:
            name = files[0] if len(files) == 1 else files[0].parent
            kind = type(self).__name__.removesuffix("Format")
            raise ValueError(f"{name} has no column {error}: it is not the table of {kind}") from error

    def table_hash(self) -> str:
        """Hash of the table's files, 16 hex digits."""
        return hashlib.sha256(b"".join(file.read_bytes() for file in self.files())).hexdigest()[:16]

    def table(self) -> Path:
        """The first file with questions."""
        return self.files()[0]

    def files(self) -> list[Path]:
        """The files with the questions: one, or those of the authors' own layout.

        Raises:
            FileNotFoundError: naming where they were looked for.
        """
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root} is no folder; {self._advice}")
        theirs = [file for pattern in self.authors_tables for file in sorted(self.root.glob(pattern))]
        for pattern in self.tables:
            for found in sorted(set(self.root.glob(pattern)) - set(theirs)):
                return [found]
        if theirs:
            return theirs
        looked = ", ".join(str(self.root / pattern) for pattern in (*self.tables, *self.authors_tables))
        raise FileNotFoundError(f"no table of questions in {self.root}; looked for {looked}; {self._advice}")

    @property
    def _advice(self) -> str:
        return f"download the data set {self.repository} into it, archives unpacked, or give --data.download true"

    def find_video(self, name: str) -> str:
        """A video's path relative to the root, whatever its ending; the first place to look, if it is in none."""
        endings = ("", *ENDINGS) if Path(name).suffix in ENDINGS else ENDINGS
        for folder in self.video_folders:
            for ending in endings:
                path = Path(folder) / f"{name}{ending}"
                if (self.root / path).is_file():
                    return str(path)
        for ending in endings:
            if f"{name}{ending}" in self._anywhere:
                return self._anywhere[f"{name}{ending}"]
        return str(Path(self.video_folders[0]) / (name if Path(name).suffix in ENDINGS else f"{name}.mp4"))

    @cached_property
    def _anywhere(self) -> dict[str, str]:
        """Videos by name, in whatever folder the archives put them; none that is there twice."""
        found = [path.relative_to(self.root) for path in files_below(self.root) if path.suffix in ENDINGS]
        twice = {name for name, count in Counter(path.name for path in found).items() if count > 1}
        return {path.name: str(path) for path in found if path.name not in twice}

    def to_question(self, row: dict[str, Any]) -> VideoQuestion:
        """A row of the table as the protocol puts it."""
        asked, protocol = self.question(row), self.protocol
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
