"""Keep texts on the command line (questions, paths, titles) from being parsed as YAML."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from inspect import signature
from pydoc import locate
from typing import Any

import yaml
from jsonargparse import Namespace

from flexselect.families import family_class
from flexselect.nearest import did_you_mean
from flexselect.options import AskingOptions, option_names

SEVERAL = ("--data.question", "--data.video")  # options that take one or more texts
TEXTS = (
    *SEVERAL,
    *("--data.annotations", "--data.val_annotations", "--data.video_root", "--data.root"),
    *("--data.needles", "--data.haystacks", "--data.teacher_scores", "--data.encoding"),
    *("--family.path", "--model.selector", "--model.feature_cache", "--model.offload_folder", "--model.start"),
)
MARK = '"\ue000'  # precedes a text that YAML would parse as something else; no real text begins with it


def mark_texts(words: Sequence[str]) -> list[str]:
    """Mark the texts among the words of a command line, so that YAML does not parse "What is it: a cat?" as a mapping.

    `--data.question` and `--data.video` take all words up to the next option.
    """
    marked, remaining = list[str](), list(words)
    while remaining:
        word = remaining.pop(0)
        name, equals, value = word.partition("=")
        if name not in TEXTS or not (equals or remaining):
            marked.append(word)
            continue
        values = [value if equals else remaining.pop(0)]
        while name in SEVERAL and not equals and remaining and not remaining[0].startswith("-"):
            values.append(remaining.pop(0))
        if name not in SEVERAL:
            marked.append(f"{name}={_mark(values[0])}")
        elif len(values) == 1 and values[0].startswith("[") and values[0].endswith("]"):  # a YAML list
            marked.append(f"{name}={values[0]}")
        else:
            marked.append(f"{name}={json.dumps(values)}")
    return marked


def error_message(error: Exception) -> str:
    """Return an error's message; for an error in a DataLoader worker, without the worker's traceback."""
    message = str(error)
    if not message.startswith("Caught ") or "Original Traceback" not in message.partition("\n")[2][:40]:
        return message
    name = message.split(" ", 2)[1]  # "Caught ValueError in DataLoader worker process 0."
    return message.rpartition(f"\n{name}: ")[2].strip() or message


UNKNOWN_KEY = re.compile(r"given class_path '([\w.]+)':\s+Option '(\w+)' is not accepted")
WRONG_VALUE = re.compile(r"(?P<expected>Expected a [^\n]*?)(?:\. Got value: |\n[\s\S]*?Given value: )(?P<value>[^\n]+)")
REQUIRED_KEY = re.compile(r"given class_path '([\w.]+)':\s+the following arguments are required: ([\w, ]+)")
PART_ALONE = re.compile(r"NestedArg\(key='(?P<key>\w+)', val='(?P<value>[^\n]*?)'\)")
UNKNOWN_OPTION = re.compile(r"[Uu]nrecognized arguments: (--[\w.-]+)")


def explain_mistake(message: str, options: Sequence[str]) -> str:
    """Return one line for a mistyped option, with the nearest right one, or for a wrong value.

    Other messages of the parser stay.

    Args:
        message: the parser's message.
        options: the parser's options, such as "--output_dir".
    """
    alone = PART_ALONE.search(message)
    if alone is not None and alone["key"] == "path" and alone["value"]:
        return f"--family.path alone names no family: {_family_option(alone['value'])}"
    key, option, lacking = (pattern.search(message) for pattern in (UNKNOWN_KEY, UNKNOWN_OPTION, REQUIRED_KEY))
    part = message.partition('"')[2].partition('"')[0]  # Parser key "data":
    if key is not None:
        owner: Any = locate(key[1])
        taken = signature(owner).parameters
        known = [*taken, *(option_names(AskingOptions) if "options" in taken else [])]
        return f"there is no --{part}.{key[2]}{did_you_mean(key[2], known, f'--{part}.')}"
    if option is not None:
        return f"there is no {option[1]}{did_you_mean(option[1], options)}"
    if lacking is not None:
        names = ", ".join(f"--{part}.{name.strip()}" for name in lacking[2].split(","))
        return f"missing: {names}, which {lacking[1]} needs"
    if "arguments are required" in message:
        if "--config" in options:
            return "a model is missing: give --config CONFIG, for example --config qwen2_5_vl_7b"
        return message
    wrong = WRONG_VALUE.search(PART_ALONE.sub(lambda part: repr(part["value"]), message))
    if wrong is None:
        return message
    *parts, key = re.findall(r'Parser key "([\w.]+)":', message)
    expected = re.sub(r"^Expected a <class '(\w+)'>$", r"it is of type \1", wrong["expected"])
    return f"--{'.'.join([*parts, key])} cannot be {wrong['value'].strip()}: {expected}"


def _family_option(path: str) -> str:
    """Say how to name the family of a checkpoint."""
    try:
        name = family_class(path).__name__
    except (ValueError, OSError) as error:
        return str(error)
    return f"add --family flexselect.families.{name} before it, or give --config with a config of that family"


def _mark(text: str) -> str:
    """Mark a text so that YAML reads it as text; `null` stays None."""
    try:
        parsed = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    plain = isinstance(parsed, str | int | float) or text in ("null", "~", "")
    return text if plain else json.dumps(MARK[1:] + text, ensure_ascii=False)


def unmark(value: Any) -> Any:
    """Remove the marks from parsed options, nested ones too."""
    if isinstance(value, str):
        return json.loads(value)[1:] if value.startswith(MARK) else value
    if isinstance(value, Namespace | dict):
        for name, item in value.items(branches=True) if isinstance(value, Namespace) else list(value.items()):
            value[name] = unmark(item)
    return value
