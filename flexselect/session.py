"""A video that is ready for questions, and what of it is kept between them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flexselect.choices import check_choice
from flexselect.clock import Clock
from flexselect.feature_cache import write_encoded
from flexselect.prepared import PreparedSets
from flexselect.prompt import Answer, EncodedVideo, Selection, VideoClip
from flexselect.questions import VideoQuestion
from flexselect.scorers import AttentionScorer

if TYPE_CHECKING:
    from flexselect.pipeline import FlexSelect

KEEP = ("features", "scores_kv")


class VideoSession:
    """A video that is ready for questions: its frames are decoded and encoded once.

    Args:
        flexselect: the model.
        clip: the frames, on the CPU, for pictures; None where only their features were kept.
        encoded: the features.
        timings: seconds spent on the video, under decode and encode.
    """

    def __init__(
        self, flexselect: FlexSelect, clip: VideoClip | None, encoded: EncodedVideo, timings: dict[str, float]
    ) -> None:
        self.flexselect, self.clip, self.encoded, self.timings = flexselect, clip, encoded, timings
        self.keep: str = "features"
        self.keep_on: str | None = None
        self._prepared: list[PreparedSets] | None = None

    def keeping(self, keep: str, on: str | None = None) -> VideoSession:
        """Say what is kept between questions; returns the session.

        Args:
            keep: "features"; or "scores_kv", also the keys and values of prefix and visual tokens up to the reference
                layer, so that from the second question on only the question's rows are scored. The scores are the same.
            on: device that keys and values lie on between questions, "cpu" for one; None: where they were made.
        """
        check_choice("keep", keep, KEEP)
        self.keep, self.keep_on, self._prepared = keep, on, None
        return self

    @property
    def num_bytes(self) -> dict[str, int]:
        """What is kept between questions: bytes of `features`, and of `scores_kv` once a question was scored."""
        seen = self.encoded.seen.nbytes if self.encoded.seen is not None else 0
        states = sum(part.num_bytes for part in self._prepared or ())
        return {"features": self.encoded.features.nbytes + seen, "scores_kv": states}

    def save(self, file: str | Path) -> None:
        """Write the features; `FlexSelect.load_session` takes them up in another process, without the video."""
        write_encoded(Path(file), self.encoded, self.flexselect.made_with)

    def select(self, question: str, options: Sequence[str] = ()) -> Selection:
        """Rank and choose the visual tokens for a question, without answering it; see `ask`."""
        query_ids = self.flexselect.lm.prompter.query_ids(VideoQuestion("", "", question, tuple(options)).text)
        return self.flexselect.select_encoded(self.encoded, query_ids, self._kept())

    def ask(self, question: str, max_new_tokens: int = 64, options: Sequence[str] = ()) -> Answer:
        """Answer one question.

        Args:
            question: in words.
            max_new_tokens: the most tokens of the answer.
            options: of a multiple-choice question, listed below it as A, B, ...

        Returns:
            The answer; its timings hold this question's own `score`, `prefill` and `generate`, and the video's shared
            `decode` and `encode`.

        Raises:
            ValueError: for an empty question.
        """
        if not isinstance(question, str) or not question.strip():
            raise ValueError("the question is empty")
        fs, encoded = self.flexselect, self.encoded
        clock = Clock(fs.lm.device, self.timings)
        query_ids = fs.lm.prompter.query_ids(VideoQuestion("", "", question, tuple(options)).text)
        selection = None
        with clock("score"):
            if fs.scorer is not None:
                selection = fs.select_encoded(encoded, query_ids, self._kept())
        with clock("prefill"):
            inputs = fs.lm.assemble(encoded, query_ids, selection, fs.positions)
        clock.start("prefill")
        end = fs.lm.prompter.end_of_turn
        ids = fs.lm.generate(inputs, max_new_tokens, lambda: clock.start("generate"), end)
        clock.stop()
        kept = encoded.num_tokens if selection is None else len(selection.kept)
        return Answer(fs.lm.prompter.decode(ids), selection, encoded.num_tokens, kept, clock.timings)

    def _kept(self) -> list[PreparedSets] | None:
        """Keys and values for scoring, made at the first question; None where none are kept."""
        scorer = self.flexselect.scorer
        if self.keep != "scores_kv" or not isinstance(scorer, AttentionScorer):
            return None
        if self._prepared is None:
            self._prepared = scorer.prepare(self.encoded, self.keep_on)
        return self._prepared
