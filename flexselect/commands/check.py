"""Check a machine, a checkpoint and a model: what to run first with real weights on a real GPU."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from pydoc import locate
from typing import Any

import yaml

from flexselect.analysis.after_loading import check_needles, check_numbers, check_speed
from flexselect.analysis.before_loading import (
    check_files,
    check_machine,
    check_memory,
    check_tokenizer,
)
from flexselect.analysis.findings import Findings
from flexselect.analysis.memory import count_weights
from flexselect.analysis.needle_recall import NeedleClip
from flexselect.families.base import VideoFamily
from flexselect.options import AskingOptions, Options, check_names, option_names
from flexselect.pipeline import FlexSelect
from flexselect.scoring.factory import is_trained
from flexselect.storage.run_settings import UsageError, write_atomically

BENCH_FRAMES = (64, 256, 1024)
FRAMES = 32  # of the question that is measured otherwise
NEEDLES = (8, 16)  # number of clips, units per clip
Clips = Callable[[VideoFamily, int, int], Sequence[NeedleClip]]  # family, number of clips, units per clip


def check_words(words: Sequence[str], clips: Clips) -> Findings:
    """Run the verb `check` with the words of a command line; see `run_check`."""
    parser = argparse.ArgumentParser(prog="cli.py check", allow_abbrev=False, description=__doc__)
    parser.add_argument("--config", action="append", required=True, help="a model's config, as for predict")
    parser.add_argument("--quick", action="store_true", help="stop before the weights are loaded")
    parser.add_argument("--bench", action="store_true", help="also measure 64, 256 and 1,024 frames")
    parser.add_argument("--output", help="file for the findings as JSON")
    options, more = parser.parse_known_args(words)
    return run_check(*read_plan(options.config, more), clips, options.quick, options.bench, options.output)


def read_plan(configs: Sequence[str], words: Sequence[str]) -> tuple[VideoFamily, Options]:
    """Build the family and the options that a run with these configs would have.

    Args:
        configs: YAML files of a model, as for `predict`; later ones count. Only `family` and `model` are read.
        words: further options, `--family.NAME VALUE` and `--model.NAME VALUE`.

    Raises:
        UsageError: if a file or an option is wrong.
    """
    family: dict[str, Any] = {}
    model: dict[str, Any] = {}
    for config in configs:
        if not Path(config).is_file():
            raise UsageError(f"{config}: no such config")
        content = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
        for part, values in (("family", family), ("model", model)):
            section = (content or {}).get(part) or {}
            values.update({"class_path": section.get("class_path", values.get("class_path"))})
            values.update(section.get("init_args") or {})
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    names = dict.fromkeys(word.partition("=")[0] for word in words if word.startswith("--"))
    for name in names:
        parser.add_argument(name, dest=name)
    parsed, rest = parser.parse_known_args(list(words))
    for name, value in vars(parsed).items():
        part, _, key = name.removeprefix("--").partition(".")
        if part not in ("family", "model") or not key or rest:
            raise UsageError(f"{' '.join(rest) or name}: check takes --family.NAME VALUE and --model.NAME VALUE")
        (family if part == "family" else model)[key] = yaml.safe_load(value)
    maker: Any = locate(str(family.pop("class_path", None)))
    if maker is None:
        raise UsageError("no family: give --config, for example configs/qwen2_5_vl_7b.yaml")
    unused = {"class_path", *option_names(AskingOptions)} - {*option_names(Options)}
    model = {name: value for name, value in model.items() if name not in unused}
    try:
        check_names(Options, model, "check")
        return maker(**family), Options(**model)
    except (ValueError, OSError, TypeError) as error:
        raise UsageError(str(error)) from error


def run_check(
    family: VideoFamily,
    options: Options,
    clips: Clips,
    quick: bool = False,
    bench: bool = False,
    output: str | None = None,
) -> Findings:
    """Check a model from the machine to its answers; show each finding at once.

    Args:
        family: the family of the checkpoint.
        options: the options of the run to come.
        clips: renders needle clips.
        quick: stop before the weights are loaded.
        bench: also measure questions about 64, 256 and 1,024 frames.
        output: file for the findings as JSON; None: they are only shown.
    """
    findings = Findings(lambda finding: sys.stdout.write(f"{finding}\n"))
    _before(findings, family, options)
    if not quick and not findings.failed:
        _after(findings, family, options, clips, bench)
    if output is not None:
        write_atomically(Path(output), json.dumps([asdict(finding) for finding in findings], indent=2))
    return findings


def _before(findings: Findings, family: VideoFamily, options: Options) -> None:
    check_machine(findings, options)
    weights = count_weights(family)
    with findings.step("files", "download the checkpoint again"):
        check_files(findings, family.path, weights)
    check_tokenizer(findings, family)
    if not findings.failed:
        with findings.step("memory", "check config.json"):
            check_memory(findings, family, options, weights)


def _after(findings: Findings, family: VideoFamily, options: Options, clips: Clips, bench: bool) -> None:
    fs: FlexSelect | None = None
    with findings.step("loading", "the message names the file, or the option"):
        fs = FlexSelect.from_pretrained(family, **vars(options))
    if fs is None:
        return
    findings.add("loading", "ok", f"every tensor found its place; on {fs.lm.device}")
    (short,) = clips(family, 1, 4)
    with findings.step("numbers", "please report this output"):
        check_numbers(findings, fs, short.prompt)
    with findings.step("needles", "please report this output"):
        check_needles(findings, fs, clips(family, *NEEDLES), fs if is_trained(options.selector) else None)
    units = [count // family.frames_per_unit for count in (BENCH_FRAMES if bench else (FRAMES,))]
    for count in units:
        with findings.step(f"speed at {count} units", "lower --family.max_frames, if the memory was not enough"):
            check_speed(findings, fs, clips(family, 1, count)[0].prompt)
