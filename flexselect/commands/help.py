"""Help and mistakes of the command line, without PyTorch: names, types and meanings are read from the source."""

from __future__ import annotations

import ast
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from inspect import cleandoc
from itertools import pairwise
from pathlib import Path

from flexselect.commands.verbs import ALL_ANSWERED, BAD_USAGE, LOUDNESS, SHARED, SHORT, VERBS, Verb
from flexselect.nearest import did_you_mean
from flexselect.shipped import config_names
from flexselect.version import __version__

HELP, HELP_ALL = ("-h", "--help"), "--help-all"
ROOMS_OF_OPTIONS = {  # where the options of each part of a config are defined
    "model": ("lightning_modules", "flexselect.options"),
    "data": ("datamodules",),
    "family": ("flexselect.families",),
}
OUR_PACKAGES = ("flexselect.", "lightning_modules.", "datamodules.", "lightning.")
INDENT = 28  # columns before the meaning of an option


def answer_at_once(words: Sequence[str]) -> tuple[int, str] | None:
    """Answer a command line that needs no model: help, the version, mistakes that are seen without reading options.

    Args:
        words: the words after the program's name.

    Returns:
        The exit status and the text; None: a verb must run.
    """
    if not words or words[0] in (*HELP, "help"):
        return ALL_ANSWERED, overview()
    if list(words) in (["--version"], ["-V"]):
        return ALL_ANSWERED, f"flexselect {__version__}\n"
    verb = words[0]
    if verb not in VERBS:
        return BAD_USAGE, f"error: there is no verb {verb}{did_you_mean(verb, VERBS)}\n\n{overview()}"
    if any(word in HELP for word in words[1:]):
        return ALL_ANSWERED, describe(verb)
    for config in _configs(words):
        if not Path(config).exists():
            near = did_you_mean(config, [*config_names(), *map(str, Path("configs").rglob("*.yaml"))], cutoff=0.5)
            return BAD_USAGE, f"error: {config}: no such config{near}\n"
    missing = _missing(verb, words[1:])
    return (BAD_USAGE, f"error: {missing}\n") if missing else None


def _missing(verb: str, words: Sequence[str]) -> str | None:
    """Say which file, folder or word of a verb is missing or wrong; None: nothing that is seen at once."""
    values = {before: word for before, word in pairwise(words) if before.startswith("--")}
    if verb == "compare":
        folders = [word for word in words if not word.startswith("-") and word not in values.values()]
        if len(folders) < 2:
            return "two folders of runs are missing: compare OUT/self OUT/dense"
        return next((f"{folder}: no such folder" for folder in folders if not Path(folder).is_dir()), None)
    if VERBS[verb].classes and not _names_other_classes(words):
        mistyped = next(filter(None, map(_mistyped, words)), None)
        if mistyped:
            return mistyped
    for option, what in (("--ckpt_path", "checkpoint"), ("--input", "folder")):
        if verb in ("export", "convert") and option in values and not Path(values[option]).exists():
            return f"{option} {values[option]}: no such {what}"
    return None


def _names_other_classes(words: Sequence[str]) -> bool:
    """Return whether the configs or the words name a class of another package, whose options are not known here."""
    files = [Path(config) for config in _configs(words) if Path(config).is_file()]
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in files]
    named = [name for text in texts for name in re.findall(r"class_path: *([\w.]+)", text)]
    named += [word for before, word in pairwise(words) if before in ("--family", "--model", "--data")]
    return not all(name.startswith(OUR_PACKAGES) for name in named)


def _mistyped(word: str) -> str | None:
    """Say that there is no such option of a model, a data module or a family, if one with a near name exists.

    All constructors of the packages are read, which takes a twentieth of a second. The parser finds other mistakes.
    """
    part, _, key = word.partition("=")[0].rstrip("+").partition(".")
    key = key.partition(".")[0]
    if part.removeprefix("--") not in ROOMS_OF_OPTIONS or not key or key in ("class_path", "init_args", "help"):
        return None
    known = {name for room in ROOMS_OF_OPTIONS[part.removeprefix("--")] for name in _all_options(room)}
    near = did_you_mean(key, known, f"{part}.")
    return f"there is no {part}.{key}{near}" if key not in known and near else None


@cache
def _all_options(room: str) -> set[str]:
    """List the options of all classes in a package or module."""
    package, _, rest = room.partition(".")
    spec = find_spec(package)
    place = Path(next(iter(spec.submodule_search_locations or ()))) if spec else Path(package)
    place = place / rest.replace(".", "/") if rest else place
    files = place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    return {
        name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef) for name, *_ in _fields(node)
    }


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
    for name in about.options:
        kind, meaning = option_of(about, name)
        lines += _formatted(f"{name} {kind}".rstrip(), meaning)
    for name, meaning in LOUDNESS.items():
        lines += _formatted(name, meaning)
    if about.classes:
        lines += ["", f"All options: {program()} {verb} --help-all, and docs/config_keys.md."]
    return "\n".join([*lines, ""])


def _formatted(name: str, meaning: str) -> list[str]:
    """Format an option and its meaning in two columns."""
    width = max(40, min(120, shutil.get_terminal_size().columns) - INDENT)
    first, *more = textwrap.wrap(meaning, width) or [""]
    head = f"  {name:{INDENT - 3}} {first}" if len(name) <= INDENT - 3 else f"  {name}\n{'':{INDENT}}{first}"
    return [head, *(f"{'':{INDENT}}{line}" for line in more)]


def option_of(about: Verb, name: str) -> tuple[str, str]:
    """Return the type of a verb's option (empty: it takes no value), and its meaning with the default."""
    if name in SHARED:
        return SHARED[name]
    name = SHORT.get(name, name)
    part, _, key = name.removeprefix("--").partition(".")
    module, _, owner = about.classes[part].partition(":")
    kind, default, meaning = read_options(module, owner)[key]
    names = {"str": "STR", "int": "INT", "float": "FLOAT", "bool": "BOOL"}
    shown = names.get(kind.removesuffix(" | None").split(" | ")[0], "VALUE")
    if kind.startswith("Literal["):
        shown = "{" + ",".join(ast.literal_eval(f"[{kind.partition('[')[2].partition(']')[0]}]")) + "}"
    known = "" if default in ("", "None") else f" (default: {ast.literal_eval(default)})"
    return shown, meaning.rstrip(".") + known


def read_options(module: str, owner: str) -> dict[str, tuple[str, str, str]]:
    """Read the options of a class from its source, those of its parents in the same file too.

    Returns:
        By name: type, default (empty: required) and meaning.
    """
    package, _, rest = module.partition(".")
    spec = find_spec(package)
    folder = Path(next(iter(spec.submodule_search_locations or ()))) if spec else Path(package)
    source = (folder / (rest.replace(".", "/") + ".py")).read_text(encoding="utf-8")
    classes = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    options: dict[str, tuple[str, str, str]] = {}
    for node in _with_parents(classes, owner):
        meanings = _meanings(ast.get_docstring(node) or "")
        for name, kind, default in _fields(node):
            options[name] = kind, default, meanings.get(name, "")
    return options


def _with_parents(classes: dict[str, ast.ClassDef], owner: str) -> list[ast.ClassDef]:
    """List the parents of a class that are in the same file, and the class."""
    node = classes[owner]
    parents = [base.id for base in node.bases if isinstance(base, ast.Name) and base.id in classes]
    return [*(parent for name in parents for parent in _with_parents(classes, name)), node]


def _fields(node: ast.ClassDef) -> list[tuple[str, str, str]]:
    """List name, type and default of a dataclass's fields, or of a constructor's arguments."""
    rows: list[tuple[str, str, str]] = []
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            value = item.value
            if isinstance(value, ast.Call):  # placement(default)
                value = value.args[0] if value.args else None
            rows.append((item.target.id, ast.unparse(item.annotation), ast.unparse(value) if value else ""))
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            arguments = item.args.args[1:]
            required = len(arguments) - len(item.args.defaults)
            defaults = [""] * required + [ast.unparse(default) for default in item.args.defaults]
            kinds = [ast.unparse(argument.annotation) if argument.annotation else "" for argument in arguments]
            rows += zip([argument.arg for argument in arguments], kinds, defaults)
    return rows


def _meanings(docstring: str) -> dict[str, str]:
    """Read the meanings under `Args:` in a docstring."""
    block = cleandoc(docstring).partition("Args:\n")[2].partition("\n\n")[0]
    meanings: dict[str, str] = {}
    last = ""
    for line in block.splitlines():
        name, colon, meaning = line.strip().partition(": ")
        if line.startswith("    ") and not line.startswith("     ") and colon:
            meanings[last := name] = meaning
        elif last:
            meanings[last] += f" {line.strip()}"
    return meanings


def _configs(words: Sequence[str]) -> list[str]:
    """List the files that are given with --config."""
    following = [word for before, word in pairwise(words) if before == "--config"]
    return [*following, *(word.partition("=")[2] for word in words if word.startswith("--config="))]
