"""The verb `completion`: a script for bash, zsh or tcsh that completes verbs, options and configs."""

from __future__ import annotations

import argparse
from typing import Any, Literal

import shtab

from flexselect.commands.help.texts import option_of
from flexselect.commands.verbs import LOUDNESS, VERBS
from flexselect.scoring.factory import MODES
from flexselect.shipped import config_names

FOLDERS = ("DIR",)  # types whose values are folders
TEXTS = ("--data.question", "--model.", "--family.max_frames", "--trainer.")  # how options begin that take no file
POSITIONALS = {"ask": ("video",), "compare": ("one", "other")}  # files or folders
MODELS = "demo/"  # besides the configs at the top, those of the demo are models
SELECTORS = {"--selector": [*MODES, "dense"], "--model.selector": list(MODES)}
SHELLS = ("bash", "zsh", "tcsh")


def completion(shell: Literal["bash", "zsh", "tcsh"]) -> str:
    """Return the completion script of a shell.

    Args:
        shell: the shell.
    """
    parser = argparse.ArgumentParser(prog="flexselect")
    verbs = parser.add_subparsers()
    for name, verb in VERBS.items():
        words = verbs.add_parser(name, help=verb.line)
        for place in POSITIONALS.get(name, ()):
            words.add_argument(place, help="a file or folder").complete = shtab.FILE  # type: ignore[attr-defined]
        if name == "completion":
            words.add_argument("shell", choices=SHELLS)
        for option in verb.options:
            kind, meaning = option_of(verb, option)
            _add(words, option, kind, meaning.replace("%", "%%"))
        for option, meaning in LOUDNESS.items():
            words.add_argument(option, action="store_true", help=meaning)
    return shtab.complete(parser, shell)


def _add(words: argparse.ArgumentParser, option: str, kind: str, meaning: str) -> None:
    """Add an option with what completes its value: choices, files, folders or configs."""
    if not kind:
        words.add_argument(option, action="store_true", help=meaning)
        return
    choices = kind[1:-1].split(",") if kind.startswith("{") else None
    if kind == "CONFIG":
        choices = config_names()
    if kind == "MODEL":
        choices = [name for name in config_names() if "/" not in name or name.startswith(MODELS)]
    if option in SELECTORS:
        choices = SELECTORS[option]
    argument: Any = words.add_argument(option, choices=choices, metavar=kind, help=meaning)
    if kind in FOLDERS:
        argument.complete = shtab.DIRECTORY
    elif choices is None and not option.startswith(TEXTS) and kind != "INT":
        argument.complete = shtab.FILE
