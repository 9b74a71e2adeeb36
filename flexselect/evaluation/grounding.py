"""Temporal grounding: whether the moments of an answer are those of the annotations."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from flexselect.evaluation.statistics import interval
from flexselect.structures.frames import end_of

THRESHOLDS = (0.3, 0.5, 0.7)  # of intersection over union, for recall at 1
PLACES = 200  # positions of a moment that is placed by chance

Span = tuple[float, float]  # start and end in seconds


def overlap(one: Span, other: Span) -> float:
    """Return the intersection over union of two spans, from 0 to 1."""
    shared = max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
    union = one[1] - one[0] + other[1] - other[0] - shared
    return shared / union if union > 0 else 0.0


def part_read(facts: dict[str, Any]) -> Span | None:
    """Return start and end of what was read of a video, in seconds, from its facts; None: unknown, or nothing."""
    start, end = facts.get("start") or 0.0, end_of(facts)
    return (start, end) if facts.get("seconds") and end is not None and start < end else None


def ground(moments: Sequence[dict[str, Any]], truth: Sequence[Span], part: Span | None) -> dict[str, Any]:
    """Compare the first moment of an answer with the annotated ones.

    Args:
        moments: moments of the answer, strongest first: `start`, `end` and `peak`.
        truth: the annotated moments; any of them counts.
        part: start and end of what was read of the video; None: unknown, then nothing is said about chance.

    Returns:
        `iou` with the best annotated moment, `pointing` (whether the peak is inside one), and both by chance:
        `chance_iou` for a moment of this length anywhere in the part, `chance_pointing` the annotated share of it.
        `uniform_iou` is for the whole part as one moment.
    """
    uniform = None if part is None else round(max(overlap(part, span) for span in truth), 4)
    if not moments:
        return {"iou": 0.0, "pointing": False, "chance_iou": 0.0, "chance_pointing": 0.0, "uniform_iou": uniform}
    first = moments[0]
    result = {
        "iou": round(max(overlap((first["start"], first["end"]), span) for span in truth), 4),
        "pointing": any(start <= first["peak"] < end for start, end in truth),
    }
    if part is None:
        return {**result, "chance_iou": None, "chance_pointing": None, "uniform_iou": None}
    size, length = first["end"] - first["start"], part[1] - part[0]
    starts = [part[0] + max(0.0, length - size) * place / (PLACES - 1) for place in range(PLACES)]
    by_chance = statistics.mean(max(overlap((start, start + size), span) for span in truth) for start in starts)
    inside = [(min(max(start, part[0]), part[1]), min(max(end, part[0]), part[1])) for start, end in truth]
    covered = sum(end - start for start, end in inside) / length
    by_chance, covered = round(by_chance, 4), round(min(1.0, covered), 4)
    return {**result, "chance_iou": by_chance, "chance_pointing": covered, "uniform_iou": uniform}


def summarise_grounding(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Summarise the rows with annotated moments; None if there are none.

    Returns:
        `questions`; mean IoU (`miou`), recall at 1 by threshold (`r1`) and pointing accuracy (`pointing`), each with a
        95 % interval over whole videos; mean IoU and pointing by chance; and mean IoU of whole videos (`uniform_miou`).
    """
    grounded = [(row["grounding"], row["video"]) for row in rows if row.get("grounding")]
    if not grounded:
        return None
    videos = [video for _, video in grounded]

    def entry(values: Sequence[Any]) -> dict[str, Any]:
        several = len(set(videos)) > 1
        return {
            "mean": round(statistics.mean(map(float, values)), 4),
            "interval": [round(end, 4) for end in interval(list(values), videos)] if several else None,
        }

    def by_chance(name: str) -> float | None:
        known = [result[name] for result, _ in grounded if result.get(name) is not None]
        return round(statistics.mean(known), 4) if known else None

    ious = [result["iou"] for result, _ in grounded]
    return {
        "questions": len(grounded),
        "miou": entry(ious),
        "r1": {str(least): entry([iou >= least for iou in ious]) for least in THRESHOLDS},
        "pointing": entry([result["pointing"] for result, _ in grounded]),
        "chance_miou": by_chance("chance_iou"),
        "chance_pointing": by_chance("chance_pointing"),
        "uniform_miou": by_chance("uniform_iou"),
    }


def grounding_line(summary: dict[str, Any]) -> str:
    """Format the summary for a terminal."""
    recalls = ", ".join(f"R@1 at {least} {entry['mean']:.3f}" for least, entry in summary["r1"].items())
    chance = ""
    if summary["chance_miou"] is not None:
        chance = f"; by chance mIoU {summary['chance_miou']:.3f}, pointing {summary['chance_pointing']:.3f}"
    if summary["uniform_miou"] is not None:
        chance += f"; of whole videos mIoU {summary['uniform_miou']:.3f}"
    scores = f"mIoU {summary['miou']['mean']:.3f}, {recalls}, pointing {summary['pointing']['mean']:.3f}"
    return f"moments of {summary['questions']} questions: {scores}{chance}"
