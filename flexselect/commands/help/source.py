"""Options as the source defines them: read, not imported."""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib.util import find_spec
from inspect import cleandoc
from pathlib import Path

ROOMS = {  # where the options of each part of a config are defined
    "model": ("lightning_modules", "flexselect.options"),
    "data": ("datamodules",),
    "family": ("flexselect.families",),
    "trainer": ("lightning.pytorch.trainer.trainer",),
}


@cache
def options_of_part(part: str) -> dict[str, set[str]]:
    """List the options of all classes that a part of a config can have, with their types as written in the source."""
    kinds: dict[str, set[str]] = {}
    for room in ROOMS[part]:
        place = _place(room)
        for file in place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]:
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                for name, kind, _ in _fields(node) if isinstance(node, ast.ClassDef) else ():
                    kinds.setdefault(name, set()).add(kind)
    return kinds


def function_options(function: str) -> dict[str, tuple[str, str, str]]:
    """Read the arguments of a function, by its dotted path: type, default (empty: required) and meaning, by name."""
    module, _, name = function.rpartition(".")
    tree = ast.parse(_place(module).with_suffix(".py").read_text(encoding="utf-8"))
    (node,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    meanings = _meanings(ast.get_docstring(node) or "")
    return {name: (kind, default, meanings.get(name, "")) for name, kind, default in _arguments(node.args)}


def alternatives(types: str) -> list[str]:
    """Split a union of types, as written in the source, at its bars, but not within brackets."""
    types = re.sub(r"^Optional\[(.*)\]$", r"\1 | None", types)
    return re.split(r"\s*\|\s*(?![^\[]*\])", types)


def literal_choices(kind: str) -> list[str]:
    """Return the choices of a `Literal`, as written in the source; empty for another type."""
    inside = re.fullmatch(r"Literal\[(.*)\]", kind)
    return [str(choice) for choice in ast.literal_eval(f"[{inside[1]}]")] if inside else []


def _place(module: str) -> Path:
    """Return where a module or package lies, without the ending of a file."""
    package, _, rest = module.partition(".")
    spec = find_spec(package)
    folder = Path(next(iter(spec.submodule_search_locations or ()))) if spec else Path(package)
    return folder / rest.replace(".", "/") if rest else folder


def read_options(module: str, owner: str) -> dict[str, tuple[str, str, str]]:
    """Read the options of a class from its source, those of its parents in the same file too.

    Returns:
        By name: type, default (empty: required) and meaning.
    """
    source = _place(module).with_suffix(".py").read_text(encoding="utf-8")
    classes = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    options: dict[str, tuple[str, str, str]] = {}
    for node in _with_parents(classes, owner):
        makers = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
        texts = [ast.get_docstring(node), *map(ast.get_docstring, makers)]
        meanings = _meanings("\n\n".join(filter(None, texts)))
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
            rows += _arguments(item.args)[1:]
    return rows


def _arguments(arguments: ast.arguments) -> list[tuple[str, str, str]]:
    """List name, type and default of a function's arguments."""
    required = len(arguments.args) - len(arguments.defaults)
    defaults = [*[None] * required, *arguments.defaults, *arguments.kw_defaults]
    return [
        (arg.arg, ast.unparse(arg.annotation) if arg.annotation else "", ast.unparse(default) if default else "")
        for arg, default in zip([*arguments.args, *arguments.kwonlyargs], defaults)
    ]


def _meanings(docstring: str) -> dict[str, str]:
    """Read the meanings under `Args:` in a docstring."""
    block = cleandoc(docstring).partition("Args:\n")[2]
    meanings: dict[str, str] = {}
    last = ""
    for line in filter(None, block.splitlines()):
        if not line.startswith(" "):
            break
        name, colon, meaning = line.strip().partition(": ")
        if line.startswith("    ") and not line.startswith("     ") and colon:
            meanings[last := name] = meaning
        elif last:
            meanings[last] += f" {line.strip()}"
    return meanings
