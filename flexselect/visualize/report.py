"""A run on one page: results, plots, what it is known by, and each question with the frames that mattered.

The page is one HTML file that needs nothing else: no network, no other file. Needs jinja2, extra `viz`.
"""

from __future__ import annotations

import base64
import io
import math
import statistics
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from flexselect.evaluation.results import summarise_errors
from flexselect.session import VideoSession
from flexselect.storage.run_settings import flatten_settings, write_atomically
from flexselect.structures.prompt import Selection
from flexselect.visualize.frames import light
from flexselect.visualize.look import Look, look_at
from flexselect.visualize.style import clock_time

FRAMES, HEIGHT = 4, 150  # shown of a question, and the pixels each has at most
BINS = 120  # of a timeline
STAGES = ("decode", "encode", "score", "prefill", "generate")

Seen = dict[str, Any]  # what `seen` returns


def seen(session: VideoSession, selection: Selection | None) -> Seen:
    """What of a video mattered for a question, small and in plain types.

    Args:
        session: the video.
        selection: None (dense): frames evenly spread, all lit.

    Returns:
        `frames`, the units with the best scores: `when`, `score`, `kept` tokens and `jpeg` in base64; and along the
        video, `kept` tokens a unit and `best` score (none of a control's): at most 120 numbers each.
    """
    if selection is None:
        units, total = session.grid[0], math.prod(session.grid)
        look = look_at(session, Selection(torch.ones(total), torch.arange(total), []))
        shown = np.linspace(0, units - 1, min(FRAMES, units)).round().astype(int).tolist()
    else:
        look = look_at(session, selection)
        shown = look.best_units(FRAMES)
    pictures = zip(shown, look.frames(shown))
    return {
        "frames": [_frame(look, unit, frame) for unit, frame in pictures],
        "kept": _binned(look.kept_by_unit, np.add),
        "best": _binned(look.best, np.maximum) if selection is not None and look.scored else [],
        "seconds": None if look.seconds is None else float(look.edges[-1]),
    }


def write_report(
    path: Path,
    title: str,
    rows: Sequence[dict[str, Any]],
    seen_by: Callable[[dict[str, Any]], Seen | None],
    results: dict[str, Any] | None,
    about: dict[str, Any],
    most: int = 300,
) -> None:
    """Write the page.

    Args:
        path: HTML to write.
        title: above it.
        rows: predictions, with their `options`; those of `validate` also say what was expected. Wrong ones and errors
            are shown first.
        seen_by: what `seen` gave for a prediction; None where there is nothing.
        results: of `validate`, see `flexselect.evaluation.results.summarise`; None of `predict`.
        about: what the run is known by, nested as you like.
        most: of so many questions pictures are shown, wrong answers first; a page of thousands would not open.
    """
    from jinja2 import Environment, StrictUndefined

    first = {"wrong": 0, "error": 1}
    rows = sorted(rows, key=lambda row: first.get(state(row), 2))
    pictured = [i for i, row in enumerate(rows) if row["error"] is None][:most]
    looked = {i: found for i in pictured if (found := seen_by(rows[i])) is not None}
    template = files("flexselect.visualize").joinpath("report.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(template).render(
        title=title,
        rows=[{**row, "state": state(row), "seen": looked.get(i)} for i, row in enumerate(rows)],
        results=results,
        wrong=summarise_errors(results) if results else None,
        about=flatten_settings(about),
        stages=stage_medians(rows),
        along=_along(list(looked.values())),
        tokens=_tokens(rows),
        answered=sum(row["error"] is None for row in rows),
        most=most if len(rows) > most else None,
    )
    write_atomically(path, page)


def state(row: dict[str, Any]) -> str:
    """error, right, wrong, or answered where nothing is expected."""
    if row.get("error") is not None:
        return "error"
    return {True: "right", False: "wrong", None: "answered"}[row.get("correct")]


def stage_medians(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Median seconds a question by stage; decode and encode count in full for every question about a video."""
    timed = [row["timings"] for row in rows if row["timings"]]
    return {stage: statistics.median(t.get(stage, 0.0) for t in timed) for stage in STAGES} if timed else {}


def _tokens(rows: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """Most tokens shown, and most there were."""
    pairs = [(row["num_kept_tokens"], row["num_visual_tokens"]) for row in rows]
    return max((k for k, _ in pairs), default=0), max((v for _, v in pairs), default=0)


def _along(looks: Sequence[Seen]) -> list[float]:
    """Share of the kept tokens in each twentieth of the video, mean over questions."""
    if not looks:
        return []
    shares = []
    for look in looks:
        kept = np.asarray(look["kept"], float)
        so_far = np.concatenate([[0.0], kept.cumsum() / max(kept.sum(), 1e-9)])
        shares.append(np.diff(np.interp(np.linspace(0, 1, 21), np.linspace(0, 1, len(so_far)), so_far)))
    return np.mean(shares, 0).tolist()


def _frame(look: Look, unit: int, frame: np.ndarray) -> dict[str, Any]:
    image = Image.fromarray(light(frame, look.kept[unit]))
    size = (max(1, round(image.width * HEIGHT / image.height)), HEIGHT)
    file = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=80)
    when = f"unit {unit}" if look.seconds is None else clock_time(look.seconds[unit])
    jpeg = base64.b64encode(file.getvalue()).decode()
    return {"when": when, "score": float(look.best[unit]), "kept": int(look.kept_by_unit[unit]), "jpeg": jpeg}


def _binned(values: np.ndarray, how: np.ufunc) -> list[float]:
    """At most 120 values along the video, each of a part of the same length."""
    bins = min(BINS, len(values))
    place = np.arange(len(values)) * bins // len(values)
    found = np.zeros(bins)
    how.at(found, place, values / np.bincount(place)[place] if how is np.add else values)
    return [round(float(value), 6) for value in found]
