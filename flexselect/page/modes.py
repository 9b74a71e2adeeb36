"""One VideoLLM in up to three modes on the same video: dense, training-free, lite."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from flexselect.engine.answering import IN_FLIGHT
from flexselect.evidence.moments import player_offset
from flexselect.page.facts import timeline_html
from flexselect.pipeline import FlexSelect
from flexselect.scoring.controls import CONTROLS
from flexselect.scoring.factory import load_selector, make_scorer
from flexselect.scoring.scorer import Scorer
from flexselect.session import VideoSession
from flexselect.structures.answer import Answer
from flexselect.visualize import heat_map, kept_tokens, map_tokens

UNITS, COLUMNS = 6, 3  # units and columns of a picture
DENSE, SELF, LITE = "dense", "training-free", "lite"
NAMES = {"none": DENSE, "self": SELF, "lite": LITE}  # what requests call the modes


@dataclass(frozen=True)
class ModeAnswer:
    """An answer with its pictures, heat map and kept tokens, and a timeline in HTML; a dense answer has none."""

    answer: Answer
    pictures: list[Image.Image]
    timeline: str = ""


class Modes:
    """All modes of a model, with its weights in memory once. Not thread-safe: hold `lock` to use it.

    Args:
        fs: the loaded training-free model.
        lite: folder or hub id of a trained selector; None: no lite mode.
    """

    def __init__(self, fs: FlexSelect, lite: str | None = None) -> None:
        scorers: dict[str, Scorer | None] = {DENSE: None, SELF: fs.scorer}
        if lite is not None:
            options = replace(fs.options, selector=lite, reduction=None, device=str(fs.lm.device))
            scorers[LITE] = make_scorer(fs.lm, options, load_selector(fs.family, options))
        self.models = {mode: fs.with_scorer(scorer) for mode, scorer in scorers.items()}
        self._controls: dict[str, FlexSelect] = {}
        self.budget = fs.budget
        self.lock = threading.Lock()
        self.lost = False  # whether the answer engine was gone when a question was asked last
        for control in CONTROLS:
            self._controls[control] = fs.with_scorer(make_scorer(fs.lm, replace(fs.options, selector=control)))
        for model in (*self.models.values(), *self._controls.values()):
            model.waiting = self._unlocked

    @contextmanager
    def _unlocked(self) -> Iterator[None]:
        """Let others use the model within a block."""
        self.lock.release()
        try:
            yield
        finally:
            self.lock.acquire()

    @property
    def encoder(self) -> FlexSelect:
        """The model whose encoding serves all modes."""
        return list(self.models.values())[-1]  # lite if there is a selector: it also needs features of its own

    @property
    def at_once(self) -> int:
        """How many questions can be answered at a time: several with an answer engine."""
        return 1 if self.encoder.answer_engine is None else IN_FLIGHT

    @property
    def selectors(self) -> list[str]:
        """The names of all modes and controls in requests; the first is the default."""
        modes = [name for name, mode in NAMES.items() if mode in self.models]
        return [*reversed(modes), *self._controls]

    def engine(self, selector: str) -> FlexSelect:
        """Return the model of one of `selectors`."""
        return self._controls[selector] if selector in self._controls else self.models[NAMES[selector]]

    def open(self, video: Path) -> dict[str, VideoSession]:
        """Decode and encode a video once for all modes; return one session per mode.

        Raises:
            ValueError: if the video cannot be read.
        """
        *others, last = self.models
        session = self.encoder.open(video, progress=True)
        sessions = {mode: self.models[mode].open_encoded(session.encode(), session.timings) for mode in others}
        for other in sessions.values():
            other.video = video
        return {**sessions, last: session}

    def ask(
        self, session: VideoSession, question: str, budget: int, max_new_tokens: int, verify: bool = False
    ) -> ModeAnswer:
        """Answer in one mode, and draw the kept tokens; a dense answer has no budget, and cannot be verified."""
        if session.engine.scorer is None:
            return ModeAnswer(session.ask(question, max_new_tokens), [])
        answer = session.ask(question, max_new_tokens, budget=budget, verify=verify)
        token_map, pictures = map_tokens(session, answer.selection), []
        for draw, title in ((heat_map, "Score of each token"), (kept_tokens, "Tokens shown")):
            pictures.append(draw(token_map, title, UNITS, COLUMNS).image())
        return ModeAnswer(answer, pictures, timeline_html(token_map, player_offset(session.sampling)))
