"""Texts of a command line: a question, a path or a title is never taken for YAML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import yaml
from jsonargparse import Namespace

SEVERAL = ("--data.question", "--data.video")  # options that take more than one text
TEXTS = (
    *SEVERAL,
    *("--data.annotations", "--data.val_annotations", "--data.video_root", "--data.root"),
    *("--data.needles", "--data.haystacks", "--data.teacher_scores", "--data.encoding"),
    *("--family.path", "--model.selector", "--model.feature_cache", "--model.offload_folder", "--model.start"),
)
MARK = '"\ue000'  # before a text that YAML would take for something else; no text begins so by itself


def as_text(words: Sequence[str]) -> list[str]:
    """Words of a command line, texts kept from being read as YAML: "What is it: a cat?" is no mapping.

    Questions and videos may be several: all words up to the next option.
    """
    found, left = list[str](), list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if name not in TEXTS or not (equals or left):
            found.append(word)
            continue
        values = [value if equals else left.pop(0)]
        while name in SEVERAL and not equals and left and not left[0].startswith("-"):
            values.append(left.pop(0))
        if name not in SEVERAL:
            found.append(f"{name}={_marked(values[0])}")
        elif len(values) == 1 and values[0].startswith("[") and values[0].endswith("]"):  # a list as YAML has it
            found.append(f"{name}={values[0]}")
        else:
            found.append(f"{name}={json.dumps(values)}")
    return found


def reason_of(error: Exception) -> str:
    """What an error says; one that came from a process that decodes ahead, without that process's traceback."""
    said = str(error)
    if not said.startswith("Caught ") or "Original Traceback" not in said.partition("\n")[2][:40]:
        return said
    name = said.split(" ", 2)[1]  # "Caught ValueError in DataLoader worker process 0."
    return said.rpartition(f"\n{name}: ")[2].strip() or said


def _marked(text: str) -> str:
    """A text so that YAML takes it for one; `null` stays nothing."""
    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    plain = isinstance(read, str | int | float) or text in ("null", "~", "")
    return text if plain else json.dumps(MARK[1:] + text, ensure_ascii=False)


def unmarked(value: Any) -> Any:
    """Parsed options, nested ones too, with texts as they were given."""
    if isinstance(value, str):
        return json.loads(value)[1:] if value.startswith(MARK) else value
    if isinstance(value, Namespace | dict):
        for name, one in value.items(branches=True) if isinstance(value, Namespace) else list(value.items()):
            value[name] = unmarked(one)
    return value
