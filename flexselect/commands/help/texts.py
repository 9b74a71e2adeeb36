"""The texts of help: all verbs, and the options of one."""

from __future__ import annotations

import ast
import shutil
import sys
import textwrap

from flexselect.commands.help.source import alternatives, function_options, literal_choices, read_options
from flexselect.commands.verbs import LOUDNESS, SHARED, SHORT, VERBS, Verb

SET_BY_US = ("family", "device", "scoring_only", "callbacks", "default_root_dir")  # not by people
INDENT = 28  # columns before the meaning of an option


def program() -> str:
    """Return how the program was called."""
    return "python cli.py" if sys.argv[0].endswith(".py") else "flexselect"


def overview() -> str:
    """List all verbs."""
    lines = [f"usage: {program()} VERB ...", ""]
    lines += [f"  {name:12}{verb.line}" for name, verb in VERBS.items()]
    lines += ["", f"`{program()} VERB --help` shows an example and the options of a verb.", "For example:", ""]
    return "\n".join([*lines, f"  {program()} {VERBS['ask'].example}", ""])


def describe(verb: str) -> str:
    """Show a verb's example, and its options with types, meanings and defaults."""
    about = VERBS[verb]
    lines = [f"{program()} {verb}: {about.line}", "", f"  {program()} {about.example}", ""]
    for name, meaning in about.words.items():
        lines += _formatted(name, meaning)
    for name in about.options:
        kind, meaning = option_of(about, name)
        lines += _formatted(f"{name} {kind}".rstrip(), meaning)
    for name, meaning in LOUDNESS.items():
        lines += _formatted(name, meaning)
    if about.classes or about.takes:
        lines += ["", f"All options: {program()} {verb} --help-all"]
    return "\n".join([*lines, ""])


def describe_all(verb: str) -> str:
    """Show the help of a verb, and all options of its model, data, family and Trainer."""
    about, lines = VERBS[verb], [describe(verb).partition("\nAll options")[0].rstrip()]
    sections = {part: read_options(*owner.split(":")) for part, owner in about.classes.items()}
    if about.classes:
        sections["trainer"] = read_options("lightning.pytorch.trainer.trainer", "Trainer")
    if about.takes and about.function:
        of_verb = function_options(about.function)
        sections[""] = {name: option for name, option in of_verb.items() if name != "options"}
        sections[""] |= read_options(*about.takes.split(":"))
    for part, options in sections.items():
        lines += ["", f"Of {part or 'loading a model'}:", ""]
        for key, option in options.items():
            name = f"--{part}.{key}" if part else f"--{key}"
            if name not in about.options and key not in (*SET_BY_US, *about.refuses):
                kind, meaning = _shown(*option)
                lines += _formatted(f"{name} {kind}", meaning)
    if "data" in about.classes:
        lines += ["", "Data modules of benchmarks, and other families, have other options: see docs/config_keys.md."]
    return "\n".join([*lines, ""])


def _formatted(name: str, meaning: str) -> list[str]:
    """Format an option and its meaning in two columns."""
    width = max(40, min(120, shutil.get_terminal_size().columns) - INDENT)
    first, *more = textwrap.wrap(meaning, width) or [""]
    head = f"  {name:{INDENT - 3}} {first}" if len(name) <= INDENT - 3 else f"  {name}\n{'':{INDENT}}{first}"
    return [head, *(f"{'':{INDENT}}{line}" for line in more)]


SELECTOR_OF_ASK = (  # unlike a run from YAML files, it selects unless it is told not to
    "STR",
    '"self": training-free; "dense": all tokens; "uniform", "random": controls; else the folder or hub id of a trained '
    "selector (default: self)",
)


def option_of(about: Verb, name: str) -> tuple[str, str]:
    """Return the type of a verb's option (empty: it takes no value), and its meaning with the default."""
    if name in SHARED:
        return SHARED[name]
    if name == "--selector" and about.classes:
        return SELECTOR_OF_ASK
    part, _, key = (SHORT.get(name, name) if about.classes else name).removeprefix("--").partition(".")
    if about.function:
        kind, default, meaning = function_options(about.function)[part]
    else:
        kind, default, meaning = read_options(*about.classes[part].split(":"))[key]
    return _shown(kind, default, meaning)


def _shown(kind: str, default: str, meaning: str) -> tuple[str, str]:
    """Format an option's type, and its meaning with the default."""
    names = {"str": "STR", "int": "INT", "float": "FLOAT", "bool": "BOOL"}
    first = alternatives(kind)[0]
    choices = literal_choices(first)
    shown = "{" + ",".join(choices) + "}" if choices else names.get(first, "VALUE")
    known = "" if default in ("", "None") else f" (default: {ast.literal_eval(default)})"
    return shown, meaning.rstrip(".").replace("None: ", "not given: ").replace("``", "`") + known
