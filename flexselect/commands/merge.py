"""Merge the shards of a table into what one run would have written (verb `merge`)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flexselect.evaluation.parquet import NAME as PARQUET
from flexselect.evaluation.parquet import write_parquet
from flexselect.evaluation.results import merge_predictions, prediction_key, read_predictions, short_key, summary_lines
from flexselect.evaluation.results_files import Provenance, write_results
from flexselect.storage.run_settings import (
    UsageError,
    describe_differences,
    flatten_settings,
    read_json_object,
    write_atomically,
)
from flexselect.storage.score_store import SETTINGS, ScoreStore
from flexselect.storage.shard import Shard, read_shards

SCORES = "score"  # the verb that shard.json names for teacher scores
EXTRAS = ("report", "moments", "pictures")  # folders with files of single questions

Shards = Sequence[tuple[Path, Shard, dict[str, Any]]]


def merge(folders: Sequence[str], output_dir: str) -> tuple[str, int]:
    """Write what one run over the whole table would have written; the shards stay as they are.

    Args:
        folders: output folders of all shards, in any order: of predict, validate or teacher scoring.
        output_dir: a new folder. It appears when it is complete.

    Returns:
        A summary, and the number of rows with an error.

    Raises:
        UsageError: if a shard is missing, unfinished, there twice, or has other settings than the others, or if the
            output folder is not empty. Nothing is written then.
    """
    target = Path(output_dir).absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UsageError(f"{target} is there already: give another --output_dir, or delete it")
    shards = read_shards([Path(folder) for folder in folders])
    settings = _common_settings(shards)
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
        whole = Path(temporary) / target.name
        whole.mkdir()
        write_atomically(whole / SETTINGS, json.dumps(settings, indent=2))
        if shards[0][2]["verb"] == SCORES:
            summary, failed = _merge_scores(shards, whole)
        else:
            summary, failed = _merge_answers(shards, whole, settings)
        if target.exists():
            target.rmdir()
        whole.rename(target)
    return f"{len(shards)} shards merged into {output_dir}: {summary}\n", failed


def _common_settings(shards: Shards) -> dict[str, Any]:
    """Return the settings of all shards, without the shard.

    Raises:
        UsageError: naming two folders, and each setting that differs, if they are not equal.
    """
    first, _, one = shards[0]
    settings = [read_json_object(folder / SETTINGS) for folder, _, _ in shards]
    for values in settings:
        values.pop("shard", None)
    for (folder, _, about), values in zip(shards, settings):
        verbs = describe_differences({"verb": one["verb"]}, {"verb": about["verb"]})
        made_by = describe_differences(_weights(one), _weights(about))
        different = "; ".join(filter(None, (verbs, describe_differences(settings[0], values), made_by)))
        if different:
            raise UsageError(f"{first} and {folder} have other settings ({different}): run one of them again")
    return settings[0]


def _weights(about: dict[str, Any]) -> dict[str, Any]:
    """Return what a shard says about its weights; versions of packages may differ between machines."""
    return {name: value for name, value in about.get("fingerprint", {}).items() if name != "packages"}


def _merge_answers(shards: Shards, whole: Path, settings: dict[str, Any]) -> tuple[str, int]:
    """Write predictions in the order of the table, and the results of a validation."""
    placed: dict[int, dict[str, Any]] = {}
    for folder, shard, _ in shards:
        by_key = {short_key(prediction_key(row)): row for row in read_predictions(folder)}
        _check_complete(folder, shard, by_key)
        placed |= {place: by_key[key] for key, place in shard.positions.items()}
        for name in EXTRAS:
            if (folder / name).is_dir():
                shutil.copytree(folder / name, whole / name, dirs_exist_ok=True)
    rows = [placed[place] for place in range(shards[0][1].rows)]
    merge_predictions(whole, rows)
    if any((folder / PARQUET).is_file() for folder, _, _ in shards):
        write_parquet(whole / PARQUET, rows)
    failed = sum(row["error"] is not None for row in rows)
    summary, about = f"{len(rows) - failed} answers, {failed} errors", shards[0][2]
    if about["verb"] != "validate":
        return summary, failed
    fingerprint = {**about["fingerprint"], "packages": _all_packages(shards)}
    made_by = Provenance(settings, fingerprint, about["macro"], about["absent_below"])
    results = write_results(whole, whole.name, rows, map(prediction_key, rows), made_by)
    return f"{summary}\n{summary_lines(results).rstrip()}", failed


def _merge_scores(shards: Shards, whole: Path) -> tuple[str, int]:
    """Write teacher scores in the order of the table, as one process would."""
    places = {
        place: (index, key) for index, (_, shard, _) in enumerate(shards) for key, place in shard.positions.items()
    }
    stores = [ScoreStore(folder) for folder, _, _ in shards]
    for (folder, shard, _), store in zip(shards, stores):
        _check_complete(folder, shard, store)
    writer = ScoreStore(whole).writer(0)
    for place in range(shards[0][1].rows):
        index, key = places[place]
        error = stores[index].error(key)
        if error is None:
            writer.add(key, stores[index].read(key))
        else:
            writer.fail(key, error)
    scored, failed = ScoreStore(whole).counts
    return f"{scored} clips have scores, {failed} have none", failed


def _check_complete(folder: Path, shard: Shard, rows: ScoreStore | dict[str, Any]) -> None:
    """Check that a shard has a row for each of its keys.

    Raises:
        UsageError: naming the folder.
    """
    lacking = sum(key not in rows for key in shard.positions)
    if lacking:
        raise UsageError(f"{folder} lacks {lacking} of the {len(shard.positions)} rows of its shard: call it again")


def _all_packages(shards: Shards) -> dict[str, str]:
    """Return the versions of packages; where machines differ, all of them."""
    versions = [flatten_settings(about["fingerprint"]["packages"]) for _, _, about in shards]
    return {name: " and ".join(dict.fromkeys(of[name] for of in versions)) for name in versions[0]}
