"""Mean costs of questions, from rows of predictions; see `flexselect.structures.cost.Cost`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from statistics import fmean
from typing import Any

from flexselect.structures.cost import Cost

NAMES = tuple(field.name for field in fields(Cost))
OPEN = "decoded"  # the only number that may be unknown
UNKNOWN = "–"  # printed for an unknown number


def mean_cost(rows: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the mean of each number of `Cost`, and the number of `questions` with a cost; None if no row has one.

    `decoded` is None if it is unknown for one of the rows. Rows of earlier versions have no cost.
    """
    costs = [cost for row in rows if (cost := cost_of(row)) is not None]
    if not costs:
        return None
    means: dict[str, Any] = {}
    for name in NAMES:
        numbers = [cost[name] for cost in costs if cost[name] is not None]
        means[name] = fmean(numbers) if len(numbers) == len(costs) else None
    return {**means, "questions": len(costs)}


def cost_of(row: dict[str, Any]) -> dict[str, Any] | None:
    """Return the cost of a prediction; None if it has none, or a damaged one."""
    cost = row.get("cost")
    if not isinstance(cost, dict):
        return None
    numbers = {name: cost[name] for name in NAMES if isinstance(cost.get(name), int | float)}
    return {OPEN: None, **numbers} if {*numbers, OPEN} == {*NAMES} else None


def cost_line(cost: dict[str, Any]) -> str:
    """Format a mean cost for a terminal."""
    return f"cost of a question: {format_looked_at(cost)}, {format_tflop(cost)} TFLOP"


def format_looked_at(cost: dict[str, Any]) -> str:
    """Format all numbers of a cost but the operations."""
    decoded = "" if cost["decoded"] is None else f" ({format_count(cost['decoded'])} decoded)"
    scored = f", {format_count(cost['scored'])} tokens scored" if cost["scored"] else ""
    shown = f"{format_count(cost['frames'])} frames{decoded}, {format_pixels(cost)} megapixels{scored}"
    return f"{shown}, {format_count(cost['kept'])} kept"


def format_count(value: float | None) -> str:
    """Format a mean of counts: whole, or with one decimal place; a dash if it is unknown."""
    return UNKNOWN if value is None else f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def format_pixels(cost: dict[str, Any] | None) -> str:
    """Format the pixels of a cost in millions to three digits; a dash if it is unknown."""
    return UNKNOWN if cost is None else f"{cost['pixels'] / 1e6:.3g}"


def format_tflop(cost: dict[str, Any] | None) -> str:
    """Format the operations of a cost to three digits; a dash if it is unknown."""
    return UNKNOWN if cost is None else f"{cost['tflop']:.3g}"


def _counts(name: str) -> Callable[[dict[str, Any] | None], str]:
    return lambda cost: format_count(None if cost is None else cost[name])


COLUMNS: dict[str, Callable[[dict[str, Any] | None], str]] = {  # of tables, with what formats a mean cost
    "frames": _counts("frames"),
    "decoded": _counts("decoded"),
    "megapixels": format_pixels,
    "scored": _counts("scored"),
    "kept": _counts("kept"),
    "TFLOP": format_tflop,
}
