"""Facts and warnings about a video file, from its frame index."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean
from typing import Any

from datamodules.video_files.frame_index import FrameIndex
from flexselect.structures.frames import ReadOptions

MIN_RATE_RATIO = 0.9  # between the header's frame rate and the timestamps'; a lower ratio gives a warning
LEAST_OFFSET = 0.1  # seconds between the clock's zero and the first frame that a viewer would notice


def index_warnings(index: FrameIndex, options: ReadOptions) -> Iterator[str]:
    """Yield the warnings that the index gives reason for."""
    yield from index.warnings
    if len(index.times) == 1:
        yield "shows a single picture: it is no moving video"
    ratio = index.header_rate / index.true_rate if index.has_timestamps and index.header_rate else 1.0
    if not MIN_RATE_RATIO < ratio < 1 / MIN_RATE_RATIO:
        rates = f"its header says {index.header_rate:.3g} frames a second, its timestamps {index.true_rate:.3g}"
        yield f"{rates}: frames are chosen by the timestamps"
    if index.moving_tracks > 1 and options.track is None:
        count, track = index.moving_tracks, index.track
        yield f"has {count} moving video tracks, track {track} is looked at; --data.track N takes another"
    if options.end is not None and options.end > index.length + 1:
        yield f"ends at {index.length:.1f} seconds, before the second {options.end:g} that was asked for"


def facts_of(index: FrameIndex, options: ReadOptions) -> dict[str, Any]:
    """Return how frames are chosen, as plain values for the results."""
    rule = "constant rate" if index.is_steady else "variable rate"
    facts: dict[str, Any] = {"rule": rule, "file_fps": round(index.rate, 3), "seconds": round(index.length, 3)}
    if abs(index.starts_at) > LEAST_OFFSET:
        facts["starts_at"] = round(index.starts_at, 3)
    part = {name: value for name, value in (("start", options.start), ("end", options.end)) if value is not None}
    return facts | part | ({"track": index.track} if index.track else {}) | options.settings


def moves(index: FrameIndex, wanted: list[int], chosen: list[int]) -> dict[str, Any]:
    """Return how far the chosen frames are from the wanted ones, and how many frames are decoded for them."""
    moved = [abs(index.seconds[i] - index.seconds[j]) for i, j in zip(wanted, chosen)]
    distances = {"mean": round(fmean(moved), 3), "max": round(max(moved), 3)}
    costs = index.costs
    return {"moved": distances, "decoded": costs.decoded(chosen), "decoded_if_exact": costs.decoded(wanted)}
