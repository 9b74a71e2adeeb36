"""Costs of an answer, in numbers that no machine changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

DIGITS = 4  # significant ones of an estimate


@dataclass(frozen=True)
class Cost:
    """Work for an answer, as if nothing else was asked about the video; two costs can be added.

    `flexselect.running.operations` says which operations are counted. Those of `verify` are not.
    """

    frames: int = 0  # shown to the vision tower
    decoded: int | None = 0  # frames that are decoded to show these; None: unknown
    pixels: int = 0  # of all frames as the tower takes them, after resizing
    scored: int = 0  # visual tokens that were scored for the question
    kept: int = 0  # visual tokens that the answer was made from
    tflop: float = 0.0  # 10^12 operations to encode, score and answer, estimated from the shapes of the model

    def __add__(self, other: Cost) -> Cost:
        decoded = None if self.decoded is None or other.decoded is None else self.decoded + other.decoded
        return Cost(
            self.frames + other.frames,
            decoded,
            self.pixels + other.pixels,
            self.scored + other.scored,
            self.kept + other.kept,
            self.tflop + other.tflop,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; the estimate has four significant digits."""
        return {**asdict(self), "tflop": float(f"{self.tflop:.{DIGITS}g}")}


def add_costs(costs: Sequence[Cost | None]) -> Cost | None:
    """Add several costs; None: one of them is unknown."""
    known = [cost for cost in costs if cost is not None]
    return sum(known, Cost()) if len(known) == len(costs) else None
