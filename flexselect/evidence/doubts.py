"""Sentences about what is doubtful in an answer because of its video."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flexselect.families.base import VideoFamily
from flexselect.structures.answer import Answer


def with_doubts(answer: Answer, warnings: Sequence[str], has_times: bool) -> Answer:
    """Put what is doubtful in the video before the answer's own warnings.

    Args:
        answer: the answer.
        warnings: sentences about the video.
        has_times: whether the times of the frames are known.
    """
    no_times = "the times of the frames are unknown: moments are numbers of units"
    more = [no_times] if answer.moments and not has_times else []
    return replace(answer, warnings=(*warnings, *more, *answer.warnings))


def fewer_frames(family: VideoFamily, sampling: dict[str, Any]) -> list[str]:
    """Say that a video was shown at fewer frames per second than the family asks for, because of `max_frames`."""
    wanted, most = vars(family).get("fps"), vars(family).get("max_frames")
    shown, frames = sampling.get("fps"), sampling.get("frames")
    if wanted is None or most is None or shown is None or math.isinf(wanted) or frames < 0.95 * most:
        return []
    wanted = min(wanted, sampling.get("file_fps") or wanted)
    advice = f"shown at {shown:.3g} frames per second instead of {wanted:g}: longer than max_frames={most} allows"
    return [advice] if shown < 0.9 * wanted else []
