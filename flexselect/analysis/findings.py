"""Findings of a check, shown as lines and saved as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from flexselect.validation import raise_if_lost

State = Literal["ok", "not ok", "not known"]
MARKS: dict[str, str] = {"ok": "ok", "not ok": "NOT OK", "not known": "?"}


@dataclass(frozen=True)
class Finding:
    """One line of a check."""

    name: str
    state: State
    text: str  # what was found
    advice: str = ""  # what to do, if it is not ok
    values: dict[str, Any] = field(default_factory=dict)  # the numbers behind the text

    def __str__(self) -> str:
        """Format the line; the advice is on a line below."""
        line = f"{MARKS[self.state]:>7}  {self.name}: {self.text}"
        return f"{line}\n{'':9}-> {self.advice}" if self.advice else line


class Findings(list[Finding]):
    """The findings of a check, in order; `show` gets each at once.

    Args:
        show: called with each finding; None: they are only collected.
    """

    def __init__(self, show: Any = None) -> None:
        super().__init__()
        self._show = show

    def add(self, name: str, state: State, text: str, advice: str = "", **values: Any) -> None:
        """Add a finding and show it."""
        self.append(Finding(name, state, text, advice, values))
        if self._show is not None:
            self._show(self[-1])

    @contextmanager
    def step(self, name: str, advice: str) -> Iterator[None]:
        """Turn an error within a block into a finding, so that the rest is still checked.

        Every kind of error, since a damaged file can raise any; a lost GPU ends the check, see `raise_if_lost`.
        """
        try:
            yield
        except Exception as error:
            raise_if_lost(error)
            known = isinstance(error, ValueError | OSError) and str(error)
            self.add(name, "not ok", known or f"{type(error).__name__}: {error}", advice)

    @property
    def failed(self) -> bool:
        """Whether something is not ok."""
        return any(finding.state == "not ok" for finding in self)


def gigabytes(size: float) -> str:
    """Format bytes as GB."""
    return f"{size / 1e9:.1f} GB" if size >= 5e8 else f"{size / 1e6:.1f} MB"


def count(number: int) -> str:
    """Format a number of weights."""
    return f"{number / 1e9:.2f} billion" if number >= 1e8 else f"{number / 1e6:.2f} million"


def listed(names: Sequence[str], most: int = 5) -> str:
    """List names, at most `most` of them."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
