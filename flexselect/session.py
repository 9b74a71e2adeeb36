"""A video that is ready for questions, and what of it is kept between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from flexselect.engine.answering import Request
from flexselect.engine.clock import Clock
from flexselect.engine.engine import Engine
from flexselect.evaluation.questions import VideoQuestion
from flexselect.scoring.prefix_cache import PrefixCache, named_states, with_states
from flexselect.storage.encoded_file import read_encoded, write_encoded, write_tensors
from flexselect.storage.run_settings import describe_differences
from flexselect.structures.frames import FrameStream, ReadOptions
from flexselect.structures.prompt import Answer, EncodedVideo, Selection, VideoClip
from flexselect.validation import check_choice, check_place, checked_question

KEEP = ("nothing", "features", "scores_kv")


class VideoSession:
    """A video that is ready for questions: its frames are decoded and encoded once. For one thread at a time.

    Args:
        engine: the model.
        source: where frames come from; None where only their features were kept.
        encoded: the features; None: they are made when they are first asked for.
        timings: seconds spent on the video so far, under decode and encode.
        progress: whether a bar is shown for a video that takes long; None: on a terminal.
    """

    def __init__(
        self,
        engine: Engine,
        source: VideoClip | FrameStream | None,
        encoded: EncodedVideo | None = None,
        timings: dict[str, float] | None = None,
        progress: bool | None = None,
    ) -> None:
        self.engine, self.source, self.progress = engine, source, progress
        self.timings = self._spent_before = dict(timings or {})
        self.keep: str = "features"
        self.keep_on: str | None = None
        self.video: str | Path | Tensor | None = None  # where pictures find its frames: a file, or frames [T, h, w, 3]
        self.options = ReadOptions()  # of that file
        self.sampling: dict[str, Any] | None = None if encoded is None else encoded.sampling  # once it is encoded
        self.saved_in: Path | None = None  # the file that it was loaded from
        self._encoded = encoded
        self._prefix_cache: list[PrefixCache] | None = None
        self._folder: TemporaryDirectory | None = None  # what is kept on disk, deleted with the session

    def keeping(self, keep: str, on: str | None = None) -> VideoSession:
        """Say what is kept between questions; returns the session.

        Args:
            keep: "features"; "scores_kv", also the keys and values of prefix and visual tokens up to the reference
                layer, so that from the second question on only the question's rows are scored; or "nothing": the video
                is decoded and encoded for each question. Scores and answers are the same.
            on: where what is kept lies between questions: a device, "cpu" for one, or "disk" (temporary files, mapped
                into memory); None: where it was made.

        Raises:
            ValueError: for another word or device, or "nothing" where there is no video to go back to.
        """
        check_choice("keep", keep, KEEP)
        check_place(on)
        if keep == "nothing" and self.source is None:
            raise ValueError("keep='nothing' needs the video, and this session has its features only")
        self.keep, self.keep_on, self._prefix_cache = keep, on, None
        kept, folder = self._encoded, self._folder
        self._encoded = self._folder = None
        if kept is not None and keep != "nothing":
            self._encoded = self._put(kept if folder is None else kept.clone_features())
        if folder is not None:
            folder.cleanup()
        return self

    def read_clip(self) -> VideoClip | None:
        """The frames, for pictures, decoded anew where they were not kept; None where there is no video."""
        if isinstance(self.source, FrameStream):
            clip = self.engine.lm.prompter.clip(self.source.all_frames(), self.source.seconds)
            return replace(clip, about=self.source.about)
        return self.source

    @property
    def seconds(self) -> Tensor | None:
        """When each frame is shown, float64 [T]; None if unknown."""
        known = self._encoded if self.source is None else self.source
        return None if known is None else known.seconds

    @property
    def warnings(self) -> list[str]:
        """What is doubtful about the video's file, in words; complete once it is encoded."""
        known = self.source if self._encoded is None else self._encoded
        return [] if known is None else known.about.warnings

    @property
    def grid(self) -> tuple[int, int, int]:
        """Units, and the token rows and columns of a unit; known once the video was encoded.

        Raises:
            ValueError: before that.
        """
        if self.sampling is None:
            raise ValueError("the video is not encoded yet: call encode() first")
        return tuple(self.sampling["grid"])

    def encode(self) -> EncodedVideo:
        """The features; made now if they were not kept, then `timings` are of this time."""
        if self._encoded is not None:
            return self._encoded
        assert self.source is not None
        clock = Clock(self.engine.lm.device, self._spent_before)
        encoded = self.engine.encode_source(self.source, clock, self.progress)
        self.sampling, self.timings = encoded.sampling, clock.timings
        if self.keep != "nothing":
            self._encoded = encoded = self._put(encoded)
        return encoded

    def prefix_cache(self, encoded: EncodedVideo) -> list[PrefixCache] | None:
        """Keys and values for scoring, made at the first question; None where none are kept."""
        if self.keep != "scores_kv":
            return None
        if self._prefix_cache is None:
            self._prefix_cache = list(self._put_states(self.engine.prepare(encoded)))
        return self._prefix_cache or None

    @contextmanager
    def naming_its_file(self) -> Iterator[None]:
        """What is wrong with features that were loaded is said of their file: a damaged byte may be NaN."""
        try:
            yield
        except ValueError as error:
            if self.saved_in is None:
                raise
            raise ValueError(f"{self.saved_in}: {error} (Or the file is damaged: save it again.)") from error

    @property
    def num_bytes(self) -> dict[str, int]:
        """What is kept between questions: bytes of `features`, and of `scores_kv` once a question was scored."""
        kept = self._encoded
        features = (
            0
            if kept is None
            else kept.features.nbytes + (0 if kept.selector_features is None else kept.selector_features.nbytes)
        )
        return {"features": features, "scores_kv": sum(part.num_bytes for part in self._prefix_cache or ())}

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in self.num_bytes.items())
        return f"VideoSession({self.sampling or 'not yet encoded'}, keeps {sizes} on {self.keep_on or 'its device'})"

    def save(self, file: str | Path) -> None:
        """Write what is kept; `FlexSelect.load_session` takes it up in another process, without the video.

        With keep="scores_kv" keys and values are written too (they are made now if they were not there yet).
        """
        encoded = self.encode()
        states = named_states(self.prefix_cache(encoded) or ())
        write_encoded(Path(file), encoded, self.engine.provenance, states)

    def restore(self, states: dict[str, Any]) -> VideoSession:
        """Take up keys and values that `save` wrote."""
        self.keeping("scores_kv", self.keep_on)
        self._prefix_cache = with_states(self.engine.prefix_cache_layouts(self.encode()), states)
        return self

    def requests(self, texts: Sequence[str], budget: int | None = None) -> list[Request]:
        """Score the video for questions in words, options included; `Engine.answer` answers them."""
        encoded = self.encode()
        return self.engine.requests(encoded, texts, self.prefix_cache(encoded), self.timings, budget)

    def select(self, question: str, options: Sequence[str] = (), budget: int | None = None) -> Selection:
        """Rank and choose the visual tokens for a question, without answering it; see `ask`."""
        encoded = self.encode()
        query_ids = self.engine.lm.prompter.query_ids(in_words(question, options))
        return self.engine.select_encoded(encoded, [query_ids], self.prefix_cache(encoded), budget)[0]

    def ask(
        self, question: str, max_new_tokens: int = 64, options: Sequence[str] = (), budget: int | None = None
    ) -> Answer:
        """Answer one question.

        Args:
            question: in words.
            max_new_tokens: the most tokens of the answer.
            options: of a multiple-choice question, listed below it as A, B, ...
            budget: K, visual tokens kept for this question; None: the model's.

        Returns:
            The answer; its timings hold this question's own `score`, `prefill` and `generate`, and the video's shared
            `decode` and `encode`.

        Raises:
            ValueError: for an empty question.
        """
        with self.naming_its_file():
            return self.engine.answer(self.requests([in_words(question, options)], budget), max_new_tokens)[0]

    def ask_all(
        self, questions: Sequence[str], max_new_tokens: int = 64, options: Sequence[Sequence[str]] = ()
    ) -> list[Answer]:
        """Answer several questions at once: the video is scored for all of them, the answers are one batch.

        The same answers as from `ask` one by one; see `FlexSelect.ask_all` for questions about several videos.

        Args:
            questions: a list.
            max_new_tokens: the most tokens of an answer.
            options: those of each question; none where no question has any.
        """
        if isinstance(questions, str) or (options and len(options) != len(questions)):
            raise ValueError("ask_all takes a list of questions, and options for each or for none; one question: ask")
        texts = [in_words(question, its) for question, its in zip(questions, options or [()] * len(questions))]
        with self.naming_its_file():
            return self.engine.answer(self.requests(texts), max_new_tokens)

    # -- where it lies

    def _file(self, name: str) -> Path:
        self._folder = self._folder or TemporaryDirectory(prefix="flexselect-")
        return Path(self._folder.name) / name

    def _put(self, encoded: EncodedVideo) -> EncodedVideo:
        if self.keep_on != "disk":
            return encoded if self.keep_on is None else encoded.to(self.keep_on)
        file = self._file("features.safetensors")
        write_encoded(file, encoded)
        return read_encoded(file, encoded.prefix_ids)[0]

    def _put_states(self, parts: Iterator[PrefixCache]) -> Iterator[PrefixCache]:
        """Each part is put away before the next is made."""
        for number, part in enumerate(parts):
            if self.keep_on == "disk":
                file = self._file(f"states-{number}.safetensors")
                write_tensors(file, named_states([part]), {})
                yield with_states([part], load_file(file))[0]
            else:
                yield part if self.keep_on is None else part.to(self.keep_on)


def in_words(question: str, options: Sequence[str] = ()) -> str:
    """A question with its options, as the model reads them.

    Raises:
        ValueError: for an empty one.
    """
    return VideoQuestion("", "", checked_question(question), tuple(options)).text


def load_session(engine: Engine, file: Path, keep_on: str | None) -> VideoSession:
    """See `FlexSelect.load_session`."""
    check_place(keep_on)
    if file.is_dir():
        raise ValueError(f"{file} is a folder, and no session")
    try:
        encoded, saved, states = read_encoded(file, engine.lm.prompter.prefix_ids)
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{file} holds no session, or is cut short ({error}): save it again") from error
    scored, expected = saved.pop("scored", None), engine.provenance
    same_scorer = scored == expected.pop("scored")
    if engine.scorer is None or engine.scorer.projection is None:  # what a selector saw is not looked at
        saved["selector"] = None
    other = describe_differences(saved, expected)
    if other:
        raise ValueError(f"{file} was saved by another model ({other}): open the video again")
    session = VideoSession(engine, None, encoded if keep_on is not None else encoded.to(engine.lm.device))
    session.keep_on, session.saved_in = keep_on, file
    return session.restore(states) if states and same_scorer else session
