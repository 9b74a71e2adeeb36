"""One VideoLLM in up to three modes on the same video: dense, training-free, lite."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from flexselect.evidence.moments import player_offset
from flexselect.page.facts import timeline_html
from flexselect.pipeline import FlexSelect
from flexselect.scoring.factory import load_selector, make_scorer
from flexselect.scoring.scorer import Scorer
from flexselect.session import VideoSession
from flexselect.structures.answer import Answer
from flexselect.visualize import heat_map, kept_tokens, map_tokens

UNITS, COLUMNS = 6, 3  # units and columns of a picture
DENSE, SELF, LITE = "dense", "training-free", "lite"


@dataclass(frozen=True)
class ModeAnswer:
    """An answer with its pictures, heat map and kept tokens, and a timeline in HTML; a dense answer has none."""

    answer: Answer
    pictures: list[Image.Image]
    timeline: str = ""


class Modes:
    """All modes of a model, with its weights in memory once. Not thread-safe.

    Args:
        fs: the loaded training-free model.
        lite: folder or hub id of a trained selector; None: no lite mode.
    """

    def __init__(self, fs: FlexSelect, lite: str | None = None) -> None:
        scorers: dict[str, Scorer | None] = {DENSE: None, SELF: fs.scorer}
        if lite is not None:
            options = replace(fs.options, selector=lite, reduction=None, device=str(fs.lm.device))
            scorers[LITE] = make_scorer(fs.lm, options, load_selector(options))
        self.models = {mode: fs.with_scorer(scorer) for mode, scorer in scorers.items()}
        self.budget = fs.budget

    def open(self, video: Path) -> dict[str, VideoSession]:
        """Decode and encode a video once for all modes; return one session per mode.

        Raises:
            ValueError: if the video cannot be read.
        """
        *others, last = self.models  # lite if there is a selector: its encoding serves the other modes too
        session = self.models[last].open(video, progress=True)
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
