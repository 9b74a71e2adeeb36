"""A run as one HTML page: results, plots, provenance, and each question with its most relevant frames.

The page needs no network, and no other file but the videos that it plays, which stay where they are. Needs jinja2,
extra `viz`.
"""

from __future__ import annotations

import base64
import io
import math
import os
import statistics
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from PIL import Image

from flexselect.evaluation.costs import cost_of, format_looked_at, format_tflop, mean_cost
from flexselect.evaluation.results import evidence_lines, summarise_errors
from flexselect.evidence.moments import player_offset
from flexselect.session import VideoSession
from flexselect.storage.run_settings import flatten_settings, write_atomically
from flexselect.structures.answer import cited_moments
from flexselect.structures.prompt import Selection
from flexselect.visualize.frames import light
from flexselect.visualize.style import clock_time, length_text
from flexselect.visualize.token_map import TokenMap, map_tokens

FRAMES, HEIGHT = 4, 150  # frames per question, and their maximum height in pixels
BINS = 120  # number of bins of a timeline
STAGES = ("decode", "encode", "score", "prefill", "generate")

Evidence = dict[str, Any]  # the return value of `collect_evidence`


def collect_evidence(session: VideoSession, selection: Selection | None) -> Evidence:
    """Collect the most relevant frames for a question, small and in plain types.

    Args:
        session: the session of the video.
        selection: the selection; None (dense): frames are evenly spread and not dimmed.

    Returns:
        `frames`, the units with kept tokens and the best scores: `when`, `score`, number of `kept` tokens, and `jpeg`
        in base64. Along the part of the video that was read: `kept` tokens and `best` score per bin of equal time, at
        most 120 numbers each; `best` is empty for controls. `start` and `seconds`, where the part begins and ends, and
        `path`, the file, if they are known.
    """
    if selection is None:
        units, total = session.grid[0], math.prod(session.grid)
        token_map = map_tokens(session, Selection(torch.ones(total), torch.arange(total), []))
        shown = np.linspace(0, units - 1, min(FRAMES, units)).round().astype(int).tolist()
    else:
        token_map = map_tokens(session, selection)
        shown = token_map.kept_units(FRAMES)
    pictures = zip(shown, token_map.frames(shown))
    return {
        "frames": [_frame(token_map, unit, frame) for unit, frame in pictures],
        "kept": mean_along(token_map.kept_by_unit, token_map.edges),
        "best": best_along(token_map.best, token_map.edges) if selection is not None and token_map.scored else [],
        "start": None if token_map.seconds is None else float(token_map.edges[0]),
        "seconds": None if token_map.seconds is None else float(token_map.edges[-1]),
        "path": str(Path(session.video).resolve()) if isinstance(session.video, str | Path) else None,
    }


def write_report(
    path: Path,
    title: str,
    rows: Sequence[dict[str, Any]],
    evidence_of: Callable[[dict[str, Any]], Evidence | None],
    results: dict[str, Any] | None,
    provenance: dict[str, Any],
    most: int = 300,
) -> None:
    """Write the page.

    Args:
        path: HTML to write.
        title: title of the page.
        rows: predictions with their `options`; those of `validate` have the expected answer. Wrong answers and errors
            come first.
        evidence_of: function that returns the evidence of a prediction, or None if there is none.
        results: the results of `validate`, see `flexselect.evaluation.results.summarise`; None for `predict`.
        provenance: settings, versions and hashes of the run; may be nested.
        most: maximum number of questions with pictures, wrong answers first; a page with thousands would not open.
    """
    from jinja2 import Environment, StrictUndefined

    first = {"wrong": 0, "error": 1}
    rows = sorted(rows, key=lambda row: first.get(state(row), 2))
    pictured = [i for i, row in enumerate(rows) if row["error"] is None][:most]
    evidence_by_row = {i: evidence for i in pictured if (evidence := evidence_of(rows[i])) is not None}
    template = files("flexselect.visualize").joinpath("report.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["clock"] = clock_time
    environment.filters["length_text"] = length_text
    environment.filters["looked_at"], environment.filters["tflop"] = format_looked_at, format_tflop
    page = environment.from_string(template).render(
        title=title,
        rows=[_shown(row, evidence_by_row.get(i), path) for i, row in enumerate(rows)],
        results=results,
        wrong=summarise_errors(results) if results else None,
        evidence=evidence_lines(results) if results else [],
        provenance=flatten_settings(provenance),
        stages=stage_medians(rows),
        cost=mean_cost(rows),
        along=_along(list(evidence_by_row.values())),
        tokens=_tokens(rows),
        answered=sum(row["error"] is None for row in rows),
        most=most if len(rows) > most else None,
    )
    write_atomically(path, page)


def _shown(row: dict[str, Any], evidence: Evidence | None, page: Path) -> dict[str, Any]:
    """Add to a row what the page shows: its state, its evidence, and the address of its video relative to the page."""
    video, source = (evidence or {}).get("path"), None
    if video is not None and Path(video).is_file():
        source = quote(Path(os.path.relpath(video, page.resolve().parent)).as_posix())
    more = {"state": state(row), "evidence": evidence, "source": source, "offset": player_offset(row.get("sampling"))}
    return {**row, **more, "moments": cited_moments(row), "cost": cost_of(row)}


def state(row: dict[str, Any]) -> str:
    """Return "error", "right", "wrong", or "answered" if nothing is expected."""
    if row.get("error") is not None:
        return "error"
    return {True: "right", False: "wrong", None: "answered"}[row.get("correct")]


def stage_medians(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return median seconds per question by stage; each question counts the full decoding and encoding of its video."""
    timed = [row["timings"] for row in rows if row["timings"]]
    return {stage: statistics.median(t.get(stage, 0.0) for t in timed) for stage in STAGES} if timed else {}


def _tokens(rows: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """Return the largest number of kept tokens, and of all tokens."""
    pairs = [(row["num_kept_tokens"], row["num_visual_tokens"]) for row in rows]
    return max((k for k, _ in pairs), default=0), max((v for _, v in pairs), default=0)


def _along(evidence: Sequence[Evidence]) -> list[float]:
    """Return the share of kept tokens in each twentieth of the video, mean over questions."""
    if not evidence:
        return []
    shares = []
    for item in evidence:
        kept = np.asarray(item["kept"], float)
        so_far = np.concatenate([[0.0], kept.cumsum() / max(kept.sum(), 1e-9)])
        shares.append(np.diff(np.interp(np.linspace(0, 1, 21), np.linspace(0, 1, len(so_far)), so_far)))
    return np.mean(shares, 0).tolist()


def _frame(token_map: TokenMap, unit: int, frame: np.ndarray) -> dict[str, Any]:
    dense = bool(token_map.kept.all())
    image = Image.fromarray(frame if dense else light(frame, token_map.kept[unit]))
    size = (max(1, round(image.width * HEIGHT / image.height)), HEIGHT)
    file = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=80)
    time = f"unit {unit}" if token_map.seconds is None else clock_time(token_map.seconds[unit])
    jpeg = base64.b64encode(file.getvalue()).decode()
    return {"when": time, "score": float(token_map.best[unit]), "kept": int(token_map.kept_by_unit[unit]), "jpeg": jpeg}


def _bins(edges: np.ndarray) -> np.ndarray:
    """Return the ends of at most 120 bins of equal time; as many as units, if these are even."""
    lengths = np.diff(edges)
    even = lengths.max() < 1.1 * lengths.min()
    return np.linspace(edges[0], edges[-1], (min(BINS, len(lengths)) if even else BINS) + 1)


def mean_along(values: np.ndarray, edges: np.ndarray) -> list[float]:
    """Average values of units [U] over bins of equal time; edges [U + 1] are where units begin and end."""
    bins = _bins(edges)
    so_far = np.concatenate([[0.0], np.cumsum(values * np.diff(edges))])
    return np.round(np.diff(np.interp(bins, edges, so_far)) / np.diff(bins), 6).tolist()


def best_along(values: np.ndarray, edges: np.ndarray) -> list[float]:
    """Take the largest value of the units [U] that each bin of equal time meets."""
    bins = _bins(edges)
    slack = 1e-6 * (bins[1] - bins[0])  # ends that are equal but for rounding
    first = np.searchsorted(edges, bins[:-1] + slack, "right") - 1
    stop = np.searchsorted(edges, bins[1:] - slack, "left")
    return [round(float(values[a:b].max()), 6) for a, b in zip(first, stop)]
