"""Answer a command line that needs no model."""

from __future__ import annotations

from collections.abc import Sequence

from flexselect.commands.help.mistakes import find_mistake
from flexselect.commands.help.texts import describe, describe_all, overview
from flexselect.commands.verbs import ALL_ANSWERED, BAD_USAGE, VERBS
from flexselect.nearest import did_you_mean
from flexselect.version import __version__

HELP, HELP_ALL = ("-h", "--help"), "--help-all"


def answer_at_once(words: Sequence[str]) -> tuple[int, str] | None:
    """Answer a command line that needs no model: help, the version, mistakes that are seen in the words.

    Args:
        words: the words after the program's name.

    Returns:
        The exit status and the text; None: a verb must run.
    """
    if not words or words[0] in (*HELP, "help"):
        return ALL_ANSWERED, overview()
    if list(words) in (["--version"], ["-V"]):
        return ALL_ANSWERED, f"flexselect {__version__}\n"
    verb, *rest = words
    if verb not in VERBS:
        return BAD_USAGE, f"error: there is no verb {verb}{did_you_mean(verb, VERBS)}\n\n{overview()}"
    if HELP_ALL in rest:
        return ALL_ANSWERED, describe_all(verb)
    if any(word in HELP for word in rest):
        return ALL_ANSWERED, describe(verb)
    mistake = find_mistake(verb, rest)
    return (BAD_USAGE, f"error: {mistake}\n") if mistake else None
