"""Convert conversations about a clip, in the formats of training sets, to pairs of question and answer."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

COLUMNS = ("conversations", "conversation", "messages")
HUMAN = ("human", "user", "prompter")
MODEL = ("gpt", "assistant", "model", "bot", "chatgpt")
SYSTEM = ("system",)
KNOWN = "known are turns {from: human | gpt | system, value: TEXT} and {role: user | assistant | system, content: TEXT}"
MARK = r"<(?:image|video)>"  # marks the clip: on a separate line, or at the beginning or end
ALONE = re.compile(rf"^[ \t]*(?:{MARK}[ \t]*)+$", re.MULTILINE)
AT_AN_END = re.compile(rf"\A\s*(?:{MARK}\s*)+|(?:\s*{MARK})+\s*\Z")


def pairs_of(conversation: Any, all_turns: bool = False) -> list[tuple[str, str]]:
    """Return pairs of question and answer; a missing answer is empty.

    Args:
        conversation: a list of turns, or such a list as JSON text. System turns and text before the first question are
            left out; consecutive user turns are joined.
        all_turns: return all pairs; else only the first.

    Raises:
        ValueError: for an unknown format; naming what the conversation has and which formats are known.
    """
    if isinstance(conversation, str):
        try:
            conversation = json.loads(conversation)
        except ValueError as error:
            raise ValueError(f"its conversation is a text that is no JSON; {KNOWN}") from error
    if not isinstance(conversation, list | tuple):
        raise ValueError(f"its conversation is {type(conversation).__name__}, not a list of turns; {KNOWN}")
    turns = [_turn(turn, number) for number, turn in enumerate(conversation, 1)]
    pairs: list[tuple[str, str]] = []
    asked: list[str] = []
    for role, text in turns:
        if role in HUMAN:
            asked.append(without_marks(text))
        elif role in MODEL and any(asked):
            pairs.append(("\n".join(filter(None, asked)), text))
            asked = []
    if not pairs and any(asked):
        pairs.append(("\n".join(filter(None, asked)), ""))
    if not pairs:
        raise ValueError(f"its conversation asks nothing: found {_roles(turns)}; {KNOWN}")
    return pairs if all_turns else pairs[:1]


def without_marks(text: str) -> str:
    """Remove marks of the clip from a text; a mark within a sentence is kept as text."""
    return ALONE.sub("", AT_AN_END.sub("", text)).strip()


def _turn(turn: Any, number: int) -> tuple[str, str]:
    """Return the role and the text of a turn."""
    if not isinstance(turn, dict):
        raise ValueError(f"turn {number} is {turn!r}, not an object; {KNOWN}"[:300])
    role, text = (turn.get("from", turn.get("role")), turn.get("value", turn.get("content")))
    if not isinstance(role, str) or role.lower() not in (*HUMAN, *MODEL, *SYSTEM):
        problem = f"the role {role!r}" if role is not None else f"the keys {', '.join(map(str, turn))}"
        raise ValueError(f"turn {number} has {problem}; {KNOWN}")
    if isinstance(text, list) and all(isinstance(part, dict | str) for part in text):
        text = _text_of(text)
    if not isinstance(text, str):
        raise ValueError(f"turn {number} has {text!r} for its text; {KNOWN}"[:300])
    return role.lower(), text


def _text_of(parts: Sequence[dict[str, Any] | str]) -> str:
    """Return the text of content in parts: {type: text, text: ...} among {type: video, ...}."""
    texts = [part if isinstance(part, str) else part.get("text") for part in parts]
    return "\n".join(text for text in texts if isinstance(text, str))


def _roles(turns: Sequence[tuple[str, str]]) -> str:
    return "turns of " + ", ".join(dict.fromkeys(role for role, _ in turns)) if turns else "no turns"
