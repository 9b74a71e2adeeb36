"""Run several validations over the same questions, and compare them in one table: a result with its controls."""

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
from flexselect.evaluation.costs import COLUMNS, UNKNOWN, mean_cost
from flexselect.evaluation.results import format_interval, format_number
from flexselect.storage.run_settings import UsageError, write_atomically
from flexselect.validation import check_known

HEAD = (
    f"| run | accuracy | 95 % interval | {' | '.join(COLUMNS)} | tokens shown "
    "| against {} | p | errors | no letter |\n"
    f"|{'---|' * (8 + len(COLUMNS))}"
)

EXPERIMENT_KEYS = ("configs", "runs")

log = logging.getLogger(__name__)


def run_experiment(file: str, words: Sequence[str], output_dir: str, main: Callable[[Sequence[str]], int]) -> int:
    """Validate every run of an experiment, each into a separate folder; an interrupted experiment can be continued.

    Args:
        file: YAML with `configs`, config files of all runs, and `runs`, which maps names of runs to their options.
        words: further command line options for all runs.
        output_dir: gets one folder per run, and `experiment.md`.
        main: the function that runs a command line.

    Returns:
        The largest exit status of the runs. A run that could not continue is reported and left out of the table; if it
        is the first run, the others are not started.

    Raises:
        UsageError: if the file is not an experiment.
    """
    plan = _plan(Path(file))
    worst, done = 0, list[str]()
    for name, options in plan["runs"].items():
        configs = [word for config in plan["configs"] for word in ("--config", config)]
        run_options = [word for option, value in options.items() for word in (f"--{option}", _option_text(value))]
        folder = str(Path(output_dir) / name)
        status = main(["validate", *configs, *run_options, *words, "--output_dir", folder])
        worst = max(worst, status)
        if status > 128:  # stopped by a signal
            return status
        if status in (1, 2):
            log.error("run %s of %s did not run to its end (status %d)", name, file, status)
            if not done:
                return status
            continue
        done.append(folder)
    write_atomically(Path(output_dir) / "experiment.md", table(done))
    return worst


def names_experiment(words: Sequence[str]) -> bool:
    """Return whether the first `--config` of a command line is an experiment."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", action="append", default=[])
    files = [Path(file) for file in parser.parse_known_args(words)[0].config[:1]]
    if not files or not files[0].is_file():
        return False
    try:
        content = yaml.safe_load(files[0].read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError):  # LightningCLI reports what is wrong with the file
        return False
    return isinstance(content, dict) and "runs" in content


def table(folders: Sequence[str]) -> str:
    """Compare runs with the first one in a Markdown table; p is from McNemar's test on common questions.

    Costs are means per question, see `flexselect.evaluation.costs`; tokens shown are the most of all questions.
    """
    runs = [read_run(Path(folder)) for folder in folders]
    lines = [HEAD.format(runs[0]["name"])]
    for run in runs:
        about, rows = run["about"], list(run["rows"].values())
        shown = max((row["num_kept_tokens"] for row in rows), default=0)
        versus = "| |"
        if run is not runs[0]:
            versus = _against(run, runs[0])
        accuracy, cost = f"{format_number(about['accuracy'])} | {format_interval(about['interval'])}", mean_cost(rows)
        costs = " | ".join([*(form(cost) for form in COLUMNS.values()), str(shown)])
        lines.append(f"| {run['name']} | {accuracy} | {costs} {versus} | {about['errors']} | {about['unparsed']} |")
    return "\n".join(lines) + "\n"


def _against(run: dict[str, Any], first: dict[str, Any]) -> str:
    """Format the difference to the first run, and p; dashes if no counted question is in both."""
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
        raise UsageError(f"{file} is not valid YAML: {error}") from error
    if isinstance(plan, dict):
        try:
            check_known(plan, EXPERIMENT_KEYS, str(file))
        except ValueError as error:
            raise UsageError(str(error)) from error
    valid = isinstance(plan, dict) and isinstance(plan.get("configs"), list) and isinstance(plan.get("runs"), dict)
    if not valid or not all(isinstance(options, dict | None) for options in plan["runs"].values()):
        raise UsageError(
            f"{file} is not an experiment: it needs `configs`, a list of files, and `runs`, options by name"
        )
    return {"configs": plan["configs"], "runs": {name: options or {} for name, options in plan["runs"].items()}}


def _option_text(value: Any) -> str:
    """Format a value for the command line."""
    if isinstance(value, str):
        return value
    return ".inf" if value == math.inf else json.dumps(value)
