"""The verb `completion`: a script for bash, zsh or tcsh that completes verbs, options and configs."""

from __future__ import annotations

import argparse
from typing import Any, Literal

import shtab

from flexselect.commands.help import option_of
from flexselect.commands.verbs import LOUDNESS, VERBS
from flexselect.shipped import config_names

FILES, FOLDERS = ("FILE", "PATH", "CONFIG", "MODEL"), ("DIR",)  # types whose values are paths


def completion(shell: Literal["bash", "zsh", "tcsh"]) -> str:
    """Return the completion script of a shell.

    Args:
        shell: the shell.
    """
    parser = argparse.ArgumentParser(prog="flexselect")
    verbs = parser.add_subparsers()
    for name, verb in VERBS.items():
        words = verbs.add_parser(name, help=verb.line)
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
    choices = kind[1:-1].split(",") if kind.startswith("{") else config_names() if kind in ("CONFIG", "MODEL") else None
    argument: Any = words.add_argument(option, choices=choices, metavar=kind, help=meaning)
    if kind in FILES and choices is None:
        argument.complete = shtab.FILE
    if kind in FOLDERS:
        argument.complete = shtab.DIRECTORY
