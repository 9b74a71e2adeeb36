"""Whether a run can tell that what a question asks for is not in the video."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

ENOUGH = 20  # questions of either kind: with fewer, one is more than 5 %
FALSE_ALARMS = 0.05  # of questions about what is there, at the threshold that is proposed


def auroc(present: Sequence[float], absent: Sequence[float]) -> float:
    """Return the probability that a present object has a larger number than an absent one; equal ones count half."""
    one, other = np.asarray(present, float)[:, None], np.asarray(absent, float)[None]
    return float(((one > other) + 0.5 * (one == other)).mean())


def summarise_absence(rows: Sequence[dict[str, Any]], threshold: float | None = None) -> dict[str, Any] | None:
    """Summarise the rows whose annotations say whether the question's object is in the video; None if not both occur.

    Args:
        rows: predictions with `presence`, and `absent` where the annotations have it.
        threshold: the run's `absent_below`; None: it has none.

    Returns:
        The numbers of `present` and `absent` questions; `auroc`; `proposed`, the threshold at which at most
        5 % of the present ones are called absent, and the share of absent ones that it finds; and both rates at the
        run's threshold. Without present ones, only the numbers of questions.
    """
    known = [row for row in rows if row.get("absent") is not None and row.get("presence") is not None]
    present = [row["presence"] for row in known if not row["absent"]]
    absent = [row["presence"] for row in known if row["absent"]]
    if not present or not absent:
        return {"present": len(present), "absent": len(absent)} if absent else None

    def rates(least: float) -> dict[str, float]:
        false, right = (round(float(np.mean(np.asarray(values) < least)), 4) for values in (present, absent))
        return {"threshold": least, "false_alarms": false, "found": right}

    return {
        "present": len(present),
        "absent": len(absent),
        "auroc": round(auroc(present, absent), 4),
        "proposed": rates(math.floor(1000 * float(np.quantile(present, FALSE_ALARMS, method="lower"))) / 1000),
        "at_threshold": None if threshold is None else rates(threshold),
    }


def absence_line(summary: dict[str, Any]) -> str:
    """Format the summary for a terminal."""
    if "auroc" not in summary:
        return f"not in the video: {summary['absent']} rows say absent; mark others `absent: false` to measure it"
    chosen = summary["at_threshold"] or summary["proposed"]
    how = "absent_below" if summary["at_threshold"] else "proposed absent_below"
    rates = f"{chosen['found']:.3f} found, {chosen['false_alarms']:.3f} false alarms"
    counts = f"{summary['absent']} absent of {summary['absent'] + summary['present']}"
    few = "" if min(summary["absent"], summary["present"]) >= ENOUGH else " (few questions: a rough guess)"
    return f"not in the video: {counts}, AUROC {summary['auroc']:.3f}; {how} {chosen['threshold']:g}: {rates}{few}"
