"""Answers, and where in the video they come from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from flexselect.structures.cost import Cost
from flexselect.structures.prompt import Selection


@dataclass(frozen=True)
class Moment:
    """A part of a video that an answer comes from.

    Times are seconds in the file, or unit numbers if the times of the frames are unknown.
    """

    start: float
    end: float
    peak: float  # the mean of its units' middles, weighted by how far their scores stand out
    share: float  # of all that stands out of the video's background, from 0 to 1
    units: tuple[int, int]  # the first unit, and the one after the last
    alone: float | None = None  # how much of the answer's likelihood it gives by itself, 0 to 1; None: not verified

    def __repr__(self) -> str:
        worth = f"share={self.share:.2f}" if self.alone is None else f"alone={self.alone:.2f}"
        return f"Moment({self.start:.2f} to {self.end:.2f}, peak={self.peak:.2f}, {worth})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, rounded to three digits."""
        return {name: _rounded(value) for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Verification:
    """Proof of an answer: the same question without the moments that it cites, and without as many tokens elsewhere.

    It shows that the answer depends on the moments, not that it is right. Likelihoods are the model's probability of
    the answer, geometric mean per token.
    """

    cited: int  # how many of the answer's moments, from the first, are left out
    changed: bool  # whether the model answers something else without them
    changed_without_others: bool | None  # whether it does without as many others, drawn by chance; None: there are none
    likelihood: float  # of the answer, from all kept tokens
    likelihood_without: float  # without those of the cited moments
    likelihood_without_others: float | None  # without as many others; None: there are none
    background: float  # likelihood from parts of the video that no score points to

    def __repr__(self) -> str:
        answer = "another" if self.changed else "the same"
        return f"Verification(without {self.cited} cited: {answer} answer, support={self.support:.2f})"

    @property
    def support(self) -> float:
        """The share of the likelihood that is lost without the cited moments, from 0 to 1."""
        return min(1.0, max(0.0, 1.0 - self.likelihood_without / max(self.likelihood, 1e-12)))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, rounded to three digits."""
        return {"support": _rounded(self.support), **{name: _rounded(value) for name, value in asdict(self).items()}}


@dataclass(frozen=True)
class Option:
    """The option that an answer chooses."""

    letter: str
    text: str


@dataclass(frozen=True)
class Answer:
    """An answer with its selection, where it comes from, and timings."""

    text: str
    selection: Selection | None  # None: all visual tokens were kept (dense)
    num_visual_tokens: int  # V
    num_kept_tokens: int  # K
    timings: dict[str, float] = field(default_factory=dict)  # seconds under decode, encode, score, prefill, generate
    ids: Tensor | None = None  # int64 [n], the answer's tokens, with the one that ends it if it was not cut off
    likelihood: float | None = None  # the model's probability of the answer, geometric mean per token
    presence: float | None = None  # nats: how much speaks for it that the question's object is in the video
    moments: tuple[Moment, ...] = ()  # strongest first; empty for dense answers and controls
    verification: Verification | None = None  # None: not asked for
    option: Option | None = None  # None: no options, or the answer chooses none
    warnings: tuple[str, ...] = ()  # sentences about what is doubtful in the answer
    cost: Cost | None = None  # None: the size of the frames is unknown, as in files of earlier versions

    @property
    def cited(self) -> tuple[Moment, ...]:
        """The moments that the answer comes from: those that were proven, or all if none was asked to be."""
        return self.moments if self.verification is None else self.moments[: self.verification.cited]

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 40 else f"{self.text[:39]}…"
        at = f", from {self.moments[0].start:.1f} to {self.moments[0].end:.1f}" if self.moments else ""
        return f"Answer({text!r}, {self.num_kept_tokens} of {self.num_visual_tokens} tokens{at})"

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the selection and the ids as plain values."""
        return {
            "answer": self.text,
            "option": None if self.option is None else asdict(self.option),
            "num_visual_tokens": self.num_visual_tokens,
            "num_kept_tokens": self.num_kept_tokens,
            "timings": {stage: round(seconds, 6) for stage, seconds in self.timings.items()},
            "cost": None if self.cost is None else self.cost.to_dict(),
            "likelihood": None if self.likelihood is None else round(self.likelihood, 6),
            "presence": _rounded(self.presence),
            "moments": [moment.to_dict() for moment in self.moments],
            "verification": None if self.verification is None else self.verification.to_dict(),
            "warnings": list(self.warnings),
        }

    def json(self) -> str:
        """Return `to_dict` as JSON, on one line."""
        return json.dumps(self.to_dict(), ensure_ascii=False)


def cited_moments(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the moments of a prediction that its answer comes from, see `Answer.cited`."""
    proof, moments = row.get("verification"), row.get("moments") or []
    return moments if proof is None else moments[: proof["cited"]]


def _rounded(value: Any) -> Any:
    """Round a float to three digits; make a list of a tuple."""
    return round(value, 3) if isinstance(value, float) else list(value) if isinstance(value, tuple) else value
