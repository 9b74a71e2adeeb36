"""Write docs/config_keys.md: every key of the YAML files and the command line.

    python docs/config_keys.py            (run it after changing a constructor or its docstring)
    python docs/config_keys.py --check    (exit status 1 if the page is out of date)

Keys, types and defaults come from constructors, meanings from their docstrings. "see `X`" in a docstring is resolved.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # import this checkout, not an installed package

from docstring_parser import DocstringStyle, parse
from jsonargparse import ArgumentParser
from lightning import LightningDataModule, LightningModule

from flexselect.families.base import VideoFamily
from flexselect.serving.serve import serve
from lightning_modules.callbacks import PredictionWriter

PAGE = Path(__file__).with_suffix(".md")
PACKAGES = ("flexselect", "datamodules", "lightning_modules")
HEAD = """# Configuration keys

`python docs/config_keys.py` writes this page from the constructors and their docstrings. Do not edit it by hand.

Set a key in a YAML file (`family: {class_path: ..., init_args: {fps: 1}}`) or on the command line (`--family.fps 1`).
A later value replaces an earlier one. Unknown keys are refused. `python cli.py VERB --config FILE --print_config`
prints the final configuration. With `null`, the class chooses: for a number of a family, the value in the checkpoint
(the object `flexselect` in its config.json), or else the published value.

## Shared keys
"""
SHARED = (
    ("family", "class", "required", "the VideoLLM and its numbers: a family below, or a class of another package"),
    ("model", "class", "required", "the task: a module below; it receives the family automatically"),
    ("data", "class", "required", "videos and questions: a data module below; it receives the family automatically"),
    (
        "trainer",
        "Trainer",
        "",
        "arguments of Lightning's Trainer: `accelerator`, `devices`, `strategy`, `precision`, `max_epochs`, ...",
    ),
    (
        "output_dir",
        "str | null",
        "`null`",
        "output folder; null: outputs/fit for `fit`, a folder named after the settings for `predict` and `validate`",
    ),
    (
        "report",
        "bool",
        "`false`",
        "also write report.html, one page about the run (`predict` and `validate`): `--report`",
    ),
    (
        "writer",
        "PredictionWriter",
        "",
        "see below; it receives `output_dir` automatically, like `trainer.default_root_dir`",
    ),
    ("seed_everything", "bool | int", "`0`", "seed of Python, NumPy and torch"),
    (
        "ckpt_path",
        "str | null",
        "`null`",
        "a training checkpoint; `fit` resumes from `checkpoints/last.ckpt` by default",
    ),
)
SECTIONS = (("Families", "family", VideoFamily), ("Modules", "model", LightningModule))
SECTIONS = (*SECTIONS, ("Data modules", "data", LightningDataModule), ("Writer", "writer", PredictionWriter))

Row = tuple[str, str, str, str]  # key, type, default, meaning


def classes(base: type) -> list[type]:
    """List the classes that a YAML can name: the base's descendants without subclasses."""
    for package in PACKAGES:
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            with suppress(ImportError):  # of a reader whose library is missing: it has no keys
                importlib.import_module(module.name)
    known = [cls for cls in (base, *_below(base)) if cls.__module__.partition(".")[0] in PACKAGES]
    leaves = [cls for cls in known if not any(issubclass(other, cls) and other is not cls for other in known)]
    return sorted(leaves, key=lambda cls: (cls.__module__, cls.__name__))


def _below(base: type) -> set[type]:
    return {cls for direct in base.__subclasses__() for cls in {direct, *_below(direct)}}


def keys(cls: type, prefix: str) -> Iterator[Row]:
    """List the keys of a constructor and its base classes, without the family."""
    for owner in cls.__mro__:
        if "__init__" in vars(owner):
            parameters = list(inspect.signature(owner.__init__).parameters.values())[1:]
            handed_on = [p for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
            for p in parameters:
                if p not in handed_on and p.name != "family":
                    yield f"{prefix}.{p.name}", _type(str(p.annotation)), _default(p), meaning(owner, p.name)
            yield from ((f"{prefix}.{name}", *rest) for name, *rest in shared_options(owner, cls))
            if not handed_on:
                return


def shared_options(owner: Any, built: Any) -> Iterator[Row]:
    """List the keys behind `**options`: the fields of the options class that the docstring names.

    Fields that the constructor or function sets itself are left out, as in its parser.
    """
    named = re.search(r"options: .*see `flexselect\.options\.(\w+)`", inspect.getdoc(owner) or "")
    if named is None:
        return
    parser = ArgumentParser(exit_on_error=False)
    add = parser.add_class_arguments if isinstance(built, type) else parser.add_function_arguments
    add(built, skip={"family"})
    known, options = set(parser.get_defaults().as_dict()), _named(named[1])
    for p in inspect.signature(options).parameters.values():
        if p.name in known - set(inspect.signature(owner).parameters):
            yield p.name, _type(str(p.annotation)), _default(p), meaning(options, p.name)


def _type(annotation: str) -> str:
    """Format an annotation for YAML; choices of a Literal are listed."""
    words = re.sub(r"Literal\[(.*?)\]", lambda choices: choices[1].replace(", ", " | ").replace("'", ""), annotation)
    return words.replace("None", "null")


def _default(parameter: inspect.Parameter) -> str:
    """Format a default for YAML."""
    value = {"None": "null", "True": "true", "False": "false"}.get(str(parameter.default), parameter.default)
    return "required" if value is parameter.empty else f"`{value}`"


def meaning(owner: Any, name: str) -> str:
    """Return the meaning of a parameter: its docstring, or the docstring that it refers to."""
    text = inspect.getdoc(owner) or ""
    description = {p.arg_name: p.description or "" for p in parse(text, DocstringStyle.GOOGLE).params}.get(name, "")
    refers = re.fullmatch(r"see (?:`([\w.]+)`|(the class)|there)\.?", description)
    if description and refers is None:
        return re.sub(r"\bNone\b", "null", description.replace("\n", " ").removesuffix("."))
    others = re.findall(r"[Ss]ee `([\w.]+)`", text)
    if refers and refers.lastindex:
        others = [refers[1] or owner.__qualname__.rpartition(".")[0]]
    return next(filter(None, (meaning(_named(other), name) for other in others)), "")


def _named(name: str) -> Any:
    """Find a class, function or method of this project by name."""
    first, _, method = name.partition(".")
    packages = [vars(module) for path, module in sys.modules.items() if path.partition(".")[0] in PACKAGES]
    owner = next((package[first] for package in packages if first in package), None)
    return getattr(owner, method) if method else owner


def table(rows: tuple[Row, ...]) -> str:
    """Format rows as a Markdown table."""
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, kind, default, description in rows:
        cells = (f"`{key}`", f"`{kind}`", default, description)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def options(function: Any) -> Iterator[Row]:
    """List the arguments of a verb without a Trainer."""
    for p in inspect.signature(function).parameters.values():
        if p.kind != p.VAR_KEYWORD:
            yield p.name, _type(str(p.annotation)), _default(p), meaning(function, p.name)
    yield from shared_options(function, function)


def page() -> str:
    """Write the whole page; classes with equal keys share a table."""
    parts = [HEAD, table(SHARED)]
    for title, prefix, base in SECTIONS:
        classes_by_keys: dict[tuple[Row, ...], list[type]] = {}
        for cls in classes(base):
            classes_by_keys.setdefault(tuple(keys(cls, prefix)), []).append(cls)
        parts.append(f"## {title}\n")
        for rows, group in classes_by_keys.items():
            place = {cls: "flexselect.families" if base is VideoFamily else cls.__module__ for cls in group}
            parts += ["### " + ", ".join(f"`{place[cls]}.{cls.__name__}`" for cls in group) + "\n"]
            parts += [f"{parse(inspect.getdoc(cls) or '').short_description}\n" for cls in group]
            parts.append(table(rows))
    parts += ["## `serve`\n", f"{parse(inspect.getdoc(serve) or '').short_description}\n", table(tuple(options(serve)))]
    return "\n".join(parts)


def main(words: list[str]) -> int:
    """Write the page, or check that it is up to date; return the exit status."""
    if "--check" not in words:
        before = PAGE.read_text() if PAGE.exists() else ""
        PAGE.write_text(page())
        sys.stdout.write(f"{PAGE} is {'unchanged' if before == PAGE.read_text() else 'written'}\n")
    elif not PAGE.exists() or PAGE.read_text() != page():
        sys.stderr.write(f"{PAGE} is out of date: run `python docs/config_keys.py`\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
