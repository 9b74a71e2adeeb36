"""A set of validations over the same questions, and one table of them: a result with its controls."""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from flexselect.evaluation.comparison import pair_runs, read_run
from flexselect.evaluation.results import UNKNOWN, format_interval, format_number
from flexselect.storage.run_settings import UsageError, write_atomically

HEAD = (
    "| run | accuracy | 95 % interval | tokens shown | against {} | p | errors | no letter |\n"
    "|---|---|---|---|---|---|---|---|"
)

log = logging.getLogger(__name__)


def run_experiment(file: str, words: Sequence[str], output_dir: str, main: Callable[[Sequence[str]], int]) -> int:
    """Validate every run of an experiment, each into a folder of its own; called again, it goes on where it stopped.

    Args:
        file: YAML with `configs`, files that all runs are made of, and `runs`, options by name of the run.
        words: further options of the command line, for all runs.
        output_dir: gets a folder a run, and `experiment.md`.
        main: the command line.

    Returns:
        The largest exit status of a run. One that could not go on is named and left out of the table, and the others
        are made; where it is the first, none is begun after it.

    Raises:
        UsageError: for a file that is none.
    """
    plan = _plan(Path(file))
    worst, done = 0, list[str]()
    for name, options in plan["runs"].items():
        configs = [word for config in plan["configs"] for word in ("--config", config)]
        own = [word for option, value in options.items() for word in (f"--{option}", _written(value))]
        folder = str(Path(output_dir) / name)
        status = main(["validate", *configs, *own, *words, "--output_dir", folder])
        worst = max(worst, status)
        if status > 128:  # told to stop
            return status
        if status in (1, 2):
            log.error("run %s of %s was not made (status %d)", name, file, status)
            if not done:
                return status
            continue
        done.append(folder)
    write_atomically(Path(output_dir) / "experiment.md", table(done))
    return worst


def asks_for_experiment(words: Sequence[str]) -> bool:
    """Whether the first `--config` of a command line is an experiment."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", action="append", default=[])
    files = [Path(file) for file in parser.parse_known_args(words)[0].config[:1]]
    if not files or not files[0].is_file():
        return False
    try:
        content = yaml.safe_load(files[0].read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError):  # LightningCLI says what is wrong with it
        return False
    return isinstance(content, dict) and "runs" in content


def table(folders: Sequence[str]) -> str:
    """Runs beside the first of them, as Markdown; p of McNemar's test on the questions that both have."""
    runs = [read_run(Path(folder)) for folder in folders]
    lines = [HEAD.format(runs[0]["name"])]
    for run in runs:
        about, rows = run["about"], list(run["rows"].values())
        shown = max((row["num_kept_tokens"] for row in rows), default=0)
        versus = "| |"
        if run is not runs[0]:
            versus = _against(run, runs[0])
        accuracy = f"{format_number(about['accuracy'])} | {format_interval(about['interval'])}"
        lines.append(f"| {run['name']} | {accuracy} | {shown} {versus} | {about['errors']} | {about['unparsed']} |")
    return "\n".join(lines) + "\n"


def _against(run: dict[str, Any], first: dict[str, Any]) -> str:
    """Difference to the first run, and p; dashes where they share no question that counts."""
    if not run["rows"].keys() & first["rows"].keys():
        return f"| {UNKNOWN} | {UNKNOWN}"
    pair = pair_runs(run, first)
    return f"| {pair.difference:+.3f} | {pair.p:.4f}"


def _plan(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise UsageError(f"{file}: no such experiment")
    try:
        plan = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{file} is no YAML: {error}") from error
    known = isinstance(plan, dict) and isinstance(plan.get("configs"), list) and isinstance(plan.get("runs"), dict)
    if not known or not all(isinstance(options, dict | None) for options in plan["runs"].values()):
        raise UsageError(f"{file} is no experiment: it needs `configs`, a list of files, and `runs`, options by name")
    return {"configs": plan["configs"], "runs": {name: options or {} for name, options in plan["runs"].items()}}


def _written(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, str):
        return value
    return ".inf" if value == math.inf else json.dumps(value)
