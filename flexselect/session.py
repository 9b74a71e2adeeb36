"""One video, encoded once, and what is kept between its questions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor

from flexselect.engine.answering import Request
from flexselect.engine.clock import Clock
from flexselect.engine.engine import Engine
from flexselect.engine.kept_data import KeptData
from flexselect.evaluation.answer_parsing import LETTERS
from flexselect.evaluation.questions import question_text, with_option
from flexselect.evidence.answers import answer_with_moments
from flexselect.evidence.doubts import fewer_frames, with_doubts
from flexselect.loading.placement import free_bytes
from flexselect.looks.two_looks import TwoLooks
from flexselect.options import AskingOptions, choices_of
from flexselect.scoring.prefix_cache import PrefixCache, fill_prefix_caches, named_states
from flexselect.storage.encoded_file import write_encoded
from flexselect.structures.answer import Answer
from flexselect.structures.frames import FrameStream, ReadOptions
from flexselect.structures.prompt import EncodedVideo, Selection, VideoClip
from flexselect.validation import check_at_least, check_choice, check_place, checked_options, checked_question

SHARE = 0.25  # of the free memory, for the keys and values that keep="auto" keeps
History = Sequence[tuple[str, str]]  # earlier questions of a conversation with their answers
KEEP = choices_of(get_type_hints(AskingOptions)["keep"])


class VideoSession:
    """A video that is decoded and encoded once, for any number of questions. Not thread-safe.

    Args:
        engine: the model.
        source: the video's frames; None if only its features were kept.
        encoded: the features; None: they are computed on first use.
        timings: seconds spent on the video so far, under decode and encode.
        progress: whether to show a progress bar if the video takes long; None: on a terminal only.
    """

    def __init__(
        self,
        engine: Engine,
        source: VideoClip | FrameStream | None,
        encoded: EncodedVideo | None = None,
        timings: dict[str, float] | None = None,
        progress: bool | None = None,
    ) -> None:
        self.source, self.progress = source, progress
        self.looks = None if engine.options.cost is None else TwoLooks.at(engine, source, progress)
        self.engine = engine if self.looks is None else self.looks.scout
        self.timings = self._spent_before = dict(timings or {})
        self.keep: str = "auto"
        self.video: str | Path | Tensor | None = None  # a file or frames [T, h, w, 3], from which pictures are drawn
        self.options = ReadOptions()  # how the file is read
        self.sampling: dict[str, Any] | None = None if encoded is None else encoded.sampling  # None until encoded
        self.saved_in: Path | None = None  # the session file that this was loaded from
        self._encoded = encoded
        self._prefix_cache: list[PrefixCache] | None = None
        self.place = KeptData()  # of all that is kept

    def keeping(self, keep: str, on: str | None = None) -> VideoSession:
        """Set what is kept between questions; return the session. Scores and answers do not depend on it.

        Args:
            keep: "features": the visual tokens. "scores_kv": also the keys and values of prefix and visual tokens up to
                the reference layer, so that a later question runs only its query rows. "auto": these too, if they fit
                into a quarter of the free memory where they will lie. "nothing": the video is decoded and encoded for
                each question.
            on: device that holds the kept data, such as "cpu"; or "disk" (temporary files, mapped into memory);
                None: the device that computed the data.

        Raises:
            ValueError: for an unknown value or device, or for "nothing" if the session has no video.
        """
        check_choice("keep", keep, KEEP)
        check_place(on)
        if keep == "nothing" and self.source is None:
            raise ValueError("keep='nothing' needs the video, but this session has only features")
        self.keep, self._prefix_cache = keep, None
        encoded, before = self._encoded, self.place
        self._encoded, self.place = None, KeptData(on)
        if encoded is not None and keep != "nothing":
            self._encoded = before.moved(encoded, self.place)
        before.delete()
        return self

    @property
    def keep_on(self) -> str | None:
        """The device, or "disk", that holds what is kept; None: the device that computed it."""
        return self.place.on

    @property
    def seconds(self) -> Tensor | None:
        """When each frame is shown, float64 [T]; None if unknown."""
        video = self._encoded if self.source is None else self.source
        return None if video is None else video.seconds

    @property
    def warnings(self) -> list[str]:
        """Sentences about what is doubtful in the video; complete once it is encoded."""
        video = self.source if self._encoded is None else self._encoded
        return [] if video is None else [*video.about.warnings, *fewer_frames(self.engine.family, self.sampling or {})]

    @property
    def grid(self) -> tuple[int, int, int]:
        """The number of units, and of token rows and columns per unit.

        Raises:
            ValueError: if the video is not encoded yet.
        """
        if self.sampling is None:
            raise ValueError("the video is not encoded yet: call encode() first")
        return tuple(self.sampling["grid"])

    def encode(self) -> EncodedVideo:
        """Return the encoded video. If it was not kept, it is encoded now, and `timings` are updated."""
        if self._encoded is not None:
            return self._encoded
        assert self.source is not None
        clock = Clock(self.engine.gpus, self._spent_before)
        if self.looks is None:
            encoded = self.engine.encode_source(self.source, clock, self.progress)
            self.sampling = encoded.sampling
        else:
            encoded = self.looks.first(clock)
            self.sampling = self.looks.sampling(encoded)
        self.timings = clock.timings
        if self.keep != "nothing":
            self._encoded = encoded = self.place.features(encoded)
        return encoded

    def prefix_cache(self, encoded: EncodedVideo) -> list[PrefixCache] | None:
        """Return the keys and values for scoring, computed at the first question; None if they are not kept."""
        if self._prefix_cache is None and self._keeps_states(encoded):
            try:
                self._prefix_cache = list(self.place.states(self.engine.prepare(encoded)))
            except torch.OutOfMemoryError:
                if self.keep != "auto":
                    raise
                self.keep = "features"  # there is no room after all
        return self._prefix_cache or None

    def _keeps_states(self, encoded: EncodedVideo) -> bool:
        """Return whether keys and values are kept; with keep="auto", if they fit."""
        if self.keep != "auto":
            return self.keep == "scores_kv"
        return self.engine.prefix_cache_bytes(encoded) <= SHARE * free_bytes(self.keep_on or self.engine.lm.device)

    @contextmanager
    def name_file_in_errors(self) -> Iterator[None]:
        """Add the session file's name to errors, because damaged bytes in a loaded file may be NaN features."""
        try:
            yield
        except ValueError as error:
            if self.saved_in is None:
                raise
            raise ValueError(f"{self.saved_in}: {error} (Or the file is damaged: save it again.)") from error

    @property
    def num_bytes(self) -> dict[str, int]:
        """Bytes that are kept between questions: `features`, `scores_kv` once a question was scored, `second look`."""
        tensors = () if self._encoded is None else (self._encoded.features, self._encoded.selector_features)
        return {
            "features": sum(tensor.nbytes for tensor in tensors if tensor is not None),
            **({} if self.looks is None else {"second look": self.looks.num_bytes}),
            "scores_kv": sum(part.num_bytes for part in self._prefix_cache or ()),
        }

    def __repr__(self) -> str:
        name = Path(self.video).name if isinstance(self.video, str | Path) else "frames"
        size = "not yet encoded" if self.sampling is None else "{} units of {} x {} tokens".format(*self.grid)
        sizes = ", ".join(f"{kept} {number / 1e6:.1f} MB" for kept, number in self.num_bytes.items())
        return f"VideoSession({name}, {size}, keep={self.keep!r}: {sizes} on {self.keep_on or 'its device'})"

    def save(self, file: str | Path) -> None:
        """Write the session to a file; `FlexSelect.load_session` reads it in another process, without the video.

        With keep="scores_kv" the keys and values are written too; they are computed now if no question was asked yet.
        """
        if self.looks is not None:
            raise ValueError("a session that looks twice needs its video, and cannot be saved without it")
        encoded = self.encode()
        states = named_states((self.prefix_cache(encoded) or ()) if self.keep == "scores_kv" else ())
        write_encoded(Path(file), encoded, self.engine.provenance, states)

    def restore(self, states: dict[str, Any]) -> VideoSession:
        """Restore keys and values that `save` wrote; return the session."""
        self.keeping("scores_kv", self.keep_on)
        self._prefix_cache = fill_prefix_caches(self.engine.prefix_cache_layouts(self.encode()), states)
        return self

    def requests(self, texts: Sequence[str], budget: int | None = None, history: History = ()) -> list[Request]:
        """Score the video for several questions, given as text with their options; `Engine.answer` answers them."""
        encoded, spent = self.encode(), self.timings
        requests = self.engine.requests(encoded, texts, lambda: self.prefix_cache(encoded), spent, budget, history)
        return requests if self.looks is None else [self.looks.again(request, budget) for request in requests]

    def select(self, question: str, options: Sequence[str] = (), budget: int | None = None) -> Selection:
        """Select the visual tokens for a question without answering it; the arguments are those of `ask`."""
        encoded = self.encode()
        query_ids = self.engine.lm.prompter.query_ids(question_text(question, options))
        selection = self.engine.select_encoded(encoded, [query_ids], self.prefix_cache(encoded), budget)[0]
        return selection if self.looks is None else self.looks.select(encoded, query_ids, selection, budget)

    def ask(
        self,
        question: str,
        max_new_tokens: int = 64,
        options: Sequence[str] = (),
        budget: int | None = None,
        verify: bool = False,
        history: History = (),
        on_text: Callable[[str], None] | None = None,
    ) -> Answer:
        """Answer one question.

        Args:
            question: text of the question.
            max_new_tokens: the maximum length of the answer, in tokens.
            options: the options of a multiple-choice question, listed below it as A, B, ...
            budget: K, the number of visual tokens to keep for this question; None: the model's budget.
            verify: prove the answer's moments, see `Answer.verification`.
            history: earlier questions with their answers. They are part of the prompt, and of the text that scores.
            on_text: called after each token with the new piece of the answer's text, which may be empty; joined, they
                are the answer. If it raises an error, the answer stops.

        Returns:
            The answer, with the moments that it comes from. In its timings, `score`, `prefill` and `generate` are for
            this question, `decode` and `encode` for the video.

        Raises:
            ValueError: for an empty question or a list of them, or for options that are not texts; for `verify` if no
                scorer points to moments, and for `budget` if all tokens are kept.
        """
        checked_question(question)  # a list would be several questions
        return self.ask_all([question], max_new_tokens, [options], budget, verify, history, on_text)[0]

    def ask_all(
        self,
        questions: Iterable[str],
        max_new_tokens: int = 64,
        options: Iterable[Sequence[str]] = (),
        budget: int | None = None,
        verify: bool = False,
        history: History = (),
        on_text: Callable[[str], None] | None = None,
    ) -> list[Answer]:
        """Answer several questions in one batch.

        The answers are the same as from `ask`, but for rounding: in bfloat16 a batch may run other kernels. For
        questions about several videos, see `FlexSelect.ask_all`.

        Args:
            questions: texts.
            max_new_tokens: the maximum length of an answer, in tokens.
            options: one list of options per question; empty if no question has options.
            budget: K for these questions; None: the model's budget.
            verify: prove the answers' moments, see `Answer.verification`.
            history: earlier questions with their answers, the same for all questions.
            on_text: see `ask`; for one question only.
        """
        asked = [] if isinstance(questions, str) else list(questions)
        choices = [checked_options(each, len(LETTERS)) for each in options] or [()] * len(asked)
        if isinstance(questions, str) or len(choices) != len(asked):
            raise ValueError(
                "ask_all takes a list of questions, and options for each or none; for one question, use ask"
            )
        check_at_least("max_new_tokens", max_new_tokens, 1)
        if not isinstance(verify, bool):
            raise ValueError(f"verify must be True or False, got {verify!r}")
        if on_text is not None and len(asked) != 1:
            raise ValueError(f"on_text is for one question, got {len(asked)}")
        if budget is not None and self.engine.scorer is None:
            raise ValueError("a budget has no effect on a dense model, which keeps all tokens: load with a selector")
        texts = [question_text(*pair) for pair in zip(asked, choices)]
        with self.name_file_in_errors():
            requests = self.requests(texts, budget, history)
            answers = answer_with_moments(self.engine, requests, max_new_tokens, verify, on_text)
        return [
            with_option(with_doubts(answer, self.warnings, self.seconds is not None), texts)
            for answer, texts in zip(answers, choices)
        ]
