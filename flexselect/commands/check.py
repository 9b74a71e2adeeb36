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

from flexselect.analysis import before_loading
from flexselect.analysis.after_loading import (
    check_needles,
    check_numbers,
    check_speed,
    check_text,
    check_values,
)
from flexselect.analysis.before_loading import (
    check_files,
    check_generation,
    check_machine,
    check_memory,
    check_selector,
    check_shapes,
    check_time,
    check_tokenizer,
)
from flexselect.analysis.findings import Finding, Findings
from flexselect.analysis.needle_recall import NeedleClip
from flexselect.analysis.plan import Plan
from flexselect.families import numbers_of
from flexselect.families.base import VideoFamily
from flexselect.loading.weights import LoadOptions, quantization_config
from flexselect.nearest import did_you_mean
from flexselect.options import AskingOptions, Options, check_names, option_names
from flexselect.pipeline import FlexSelect
from flexselect.scoring.factory import check_options
from flexselect.scoring.reference_layer import ReferenceLayerScorer
from flexselect.scoring.scorer import Scorer
from flexselect.storage.run_settings import UsageError, write_atomically
from flexselect.validation import check_known

REPORT = "please report this output"
FLAGS = ("--config", "--quick", "--bench", "--output", "--family.NAME", "--model.NAME", "--trainer.accelerator")
SECTIONS = (  # of a config, as the Trainer's verbs read it
    "family",
    "model",
    "data",
    "trainer",
    "writer",
    "output_dir",
    "report",
    "moments",
    "seed_everything",
    "ckpt_path",
    "optimizer",
    "lr_scheduler",
    "return_predictions",
    "weights_only",
    "verbose",
)
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
    parser.add_argument("--output", help="file for the findings as JSON; each is written at once")
    options, more = parser.parse_known_args(words)
    if options.quick and options.bench:
        raise UsageError("--quick stops before --bench would measure: leave out one of them")
    plan = read_plan(options.config, more)
    return run_check(plan, clips, options.quick, options.bench, options.output)


def read_plan(configs: Sequence[str], words: Sequence[str]) -> Plan:
    """Read the family and the options that a run with these configs would have.

    Args:
        configs: YAML files of a model, as for `predict`; later ones count. `family` and `model` are read, and whether
            `trainer` asks for a CPU.
        words: further options: `--family.NAME VALUE`, `--model.NAME VALUE` and `--trainer.accelerator VALUE`.

    Raises:
        UsageError: if a file or an option is wrong.
    """
    family: dict[str, Any] = {}
    model: dict[str, Any] = {}
    accelerator = "auto"
    for config in configs:
        content = _read_yaml(config)
        for part, values in (("family", family), ("model", model)):
            section = content.get(part) or {}
            if not isinstance(section.get("init_args") or {}, dict):
                raise UsageError(f"{config}: the init_args of {part} must hold names and values")
            values.update({"class_path": section.get("class_path", values.get("class_path"))})
            values.update(section.get("init_args") or {})
        accelerator = (content.get("trainer") or {}).get("accelerator", accelerator)
    for name, value in _values(words).items():
        part, _, key = name.partition(".")
        if part == "trainer":
            accelerator = value
        else:
            (family if part == "family" else model)[key] = _parsed(name, value)
    place = family.pop("class_path", None)
    maker: Any = locate(str(place))
    if place is None or "start" in model:
        lack = "no family in it" if place is None else "it trains a selector"
        raise UsageError(f"{', '.join(configs)}: {lack}; use a model's config, as configs/qwen2_5_vl_7b.yaml")
    if not isinstance(maker, type) or not issubclass(maker, VideoFamily):
        raise UsageError(f"{', '.join(configs)}: there is no family {place}")
    if accelerator in ("gpu", "cuda") and not before_loading.find_gpus():
        raise UsageError("trainer.accelerator is gpu, but PyTorch finds no GPU here; check the driver with nvidia-smi")
    model.pop("class_path", None)
    try:
        check_known(family, ["path", *numbers_of(maker)], place)
        if not isinstance(family.get("path"), str):
            raise ValueError(f"family.path must be a folder or a hub id, got {family.get('path')!r}")
        check_names(
            AskingOptions, model, "check", ("device", "scoring_only")
        )  # as for predict, which takes it from the trainer
        plan = Plan(maker(**family), AskingOptions(**model, device="cpu" if accelerator == "cpu" else None))
        check_options(plan.family, plan.options)
    except (ValueError, OSError, TypeError) as error:
        raise UsageError(str(error)) from error
    return plan


def _read_yaml(config: str) -> dict[str, Any]:
    """Read a config."""
    try:
        content = yaml.safe_load(Path(config).read_text(encoding="utf-8")) or {}
    except FileNotFoundError as error:
        raise UsageError(f"{config}: no such config") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{config} cannot be read as a config: {error}") from error
    sections = (
        [content.get(part) for part in ("family", "model", "trainer")] if isinstance(content, dict) else [content]
    )
    if not all(section is None or isinstance(section, dict) for section in sections):
        raise UsageError(f"{config} is no config: `family`, `model` and `trainer` must hold names and values")
    try:
        check_known(content, SECTIONS, config)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return content


def _parsed(name: str, value: str) -> Any:
    """Parse a value as YAML does."""
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"--{name}: {value!r} cannot be read: {error}") from error


def _values(words: Sequence[str]) -> dict[str, str]:
    """Return the values of further options, `--NAME VALUE` or `--NAME=VALUE`, by name without dashes."""
    values, rest = {}, list(words)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        part, dot, key = name.removeprefix("--").partition(".")
        known = name == "--trainer.accelerator" or (part in ("family", "model") and dot and key)
        if not known or not name.startswith("--"):
            raise UsageError(f"{name}: check takes {', '.join(FLAGS)}{did_you_mean(name, FLAGS)}")
        if not equals and not rest:
            raise UsageError(f"{name} has no value")
        values[name.removeprefix("--")] = value if equals else rest.pop(0)
    return values


def run_check(
    plan: Plan, clips: Clips, quick: bool = False, bench: bool = False, output: str | None = None
) -> Findings:
    """Check a model from the machine to its answers; show each finding at once.

    Args:
        plan: the family of the checkpoint, and the options of the run to come.
        clips: renders needle clips.
        quick: stop before the weights are loaded.
        bench: also measure questions about 64, 256 and 1,024 frames.
        output: file for the findings as JSON, written again with each; None: they are only shown.

    Raises:
        UsageError: if the file cannot be written.
    """

    def save() -> None:
        if output is not None:
            write_atomically(Path(output), json.dumps([asdict(finding) for finding in findings], indent=2))

    def show(finding: Finding) -> None:
        sys.stdout.write(f"{finding}\n")
        sys.stdout.flush()
        save()

    findings = Findings(show)
    if output == "":
        raise UsageError("--output needs the name of a file")
    try:
        if output is not None:
            Path(output).parent.mkdir(parents=True, exist_ok=True)
        save()
    except OSError as error:
        raise UsageError(f"--output {output} cannot be written: {error.strerror}") from error
    _before(findings, plan)
    if not quick and not findings.failed:
        _after(findings, plan, clips, bench)
    return findings


def _before(findings: Findings, plan: Plan) -> None:
    check_machine(findings, plan.options)
    with findings.step("options", "the message names the option"):
        quantization_config(LoadOptions.of(plan.options))
    whole = False
    with findings.step("files", "download the checkpoint again"):
        whole = check_files(findings, "files", plan.family.path, plan.weights)
    if whole:
        check_shapes(findings, plan)
    check_tokenizer(findings, plan)
    check_generation(findings, plan.family.path)
    with findings.step("selector", "choose another selector"):
        check_selector(findings, plan)
    if any(finding.name == "tokenizer" and finding.state == "not ok" for finding in findings):
        findings.add("memory", "not known", "a clip's shape needs the tokenizer")
        return
    with findings.step("memory", "check config.json"):
        check_memory(findings, plan)
    with findings.step("time", "check config.json"):
        check_time(findings, plan)


def _after(findings: Findings, plan: Plan, clips: Clips, bench: bool) -> None:
    fs: FlexSelect | None = None
    family = plan.family
    with findings.step("loading", "the message names the file, or the option"):
        fs = FlexSelect.from_pretrained(family, **{name: vars(plan.options)[name] for name in option_names(Options)})
    if fs is None:
        return
    findings.add("loading", "ok", f"on {', '.join(sorted(map(str, fs.gpus))) or fs.lm.device}")
    (short,) = clips(family, 1, 4)
    check_values(findings, "values of weights", fs.lm.model)
    if fs.scorer is not None and fs.scorer.trained is not None:
        check_values(findings, "values of the selector", fs.scorer.trained)
    if findings.failed:
        return  # all else would follow from it
    finite = True
    with findings.step("numbers", REPORT):
        finite = check_numbers(findings, fs, short.prompt, plan.layer)
    if not finite:
        return  # all else would follow from it
    with findings.step("reads text", REPORT):
        check_text(findings, fs.lm, plan.weights)
    scorers: dict[str, Scorer] = {"training-free": ReferenceLayerScorer.make(fs.lm, plan.options)}
    if fs.scorer is not None and plan.selector is not None:
        scorers["lite"] = fs.scorer
    with findings.step("needles", REPORT):
        check_needles(findings, fs, clips(family, *NEEDLES), scorers)
    frames = sorted({min(count, plan.max_frames) for count in (BENCH_FRAMES if bench else (FRAMES,))})
    units = [count // family.frames_per_unit for count in frames]
    for count in units:
        with findings.step(f"speed at {count} units", "lower --family.max_frames, if the memory was not enough"):
            check_speed(findings, fs, clips(family, 1, count)[0].prompt)
