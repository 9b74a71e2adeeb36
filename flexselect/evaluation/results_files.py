"""The files that a validation ends with: results.json and results.md."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexselect.evaluation.results import ranges, sampling_by_video, short_key, summarise, table
from flexselect.storage.run_settings import write_atomically


@dataclass(frozen=True)
class Provenance:
    """Settings and fingerprint of the run that made the predictions."""

    settings: dict[str, Any]  # everything that decides an answer
    fingerprint: dict[str, Any]  # packages, weights, and hash of the prompts
    macro: str | None = None  # see `summarise`
    absent_below: float | None = None  # see `summarise`


def write_results(
    folder: Path,
    title: str,
    rows: Sequence[dict[str, Any]],
    asked: Iterable[tuple[str, str, str]],
    provenance: Provenance,
) -> dict[str, Any]:
    """Summarise a validation, write results.json and results.md, and return the content of results.json.

    Args:
        folder: where to write.
        title: heading of results.md.
        rows: predictions of all questions.
        asked: keys of all questions, also of those without a row.
        provenance: how the predictions were made.
    """
    videos = sampling_by_video(rows)
    results = summarise(rows, provenance.macro, provenance.absent_below)
    fingerprint = {**provenance.fingerprint, **ranges(videos.values())}
    results |= {"settings": provenance.settings, "fingerprint": fingerprint, "videos": videos}
    results["asked"] = sorted(map(short_key, asked))
    write_atomically(folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False))
    write_atomically(folder / "results.md", table(results, title))
    return results
