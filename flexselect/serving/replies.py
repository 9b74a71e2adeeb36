"""Replies in the form of OpenAI's chat completions."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

from flexselect.serving.chat import Chat
from flexselect.serving.jobs import Outcome

DONE = b"data: [DONE]\n\n"


class Reply:
    """One reply, whole or in chunks.

    Args:
        chat: the request.
        model: the model's name.
    """

    def __init__(self, chat: Chat, model: str) -> None:
        self.chat = chat
        self.head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """Return the whole reply."""
        message = {"role": "assistant", "content": outcome.answer.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _reason(outcome)}
        return {
            **self.head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": usage(outcome),
            "flexselect": facts(outcome, self.chat),
        }

    def chunk(self, delta: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
        """Return one event of a streamed reply."""
        choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]
        return event({**self.head, "object": "chat.completion.chunk", "choices": choices, **more})

    def end(self, outcome: Outcome) -> list[bytes]:
        """Return the last events of a streamed reply."""
        events = [self.chunk({}, _reason(outcome), flexselect=facts(outcome, self.chat))]
        if self.chat.include_usage:
            head = {**self.head, "object": "chat.completion.chunk", "choices": []}
            events.append(event({**head, "usage": usage(outcome)}))
        return [*events, DONE]


def event(value: dict[str, Any]) -> bytes:
    """Format a server-sent event."""
    return b"data: " + to_json(value) + b"\n\n"


def to_json(value: Any) -> bytes:
    """Return JSON in ASCII, so that no text of a request or an answer can break it."""
    return json.dumps(value, separators=(",", ":")).encode()


def usage(outcome: Outcome) -> dict[str, Any]:
    """Count tokens: those of the prompt are its text and the kept visual tokens."""
    text, kept = outcome.text_tokens, outcome.answer.num_kept_tokens
    new = 0 if outcome.answer.ids is None else len(outcome.answer.ids)
    details = {"text_tokens": text, "visual_tokens": kept}
    return {
        "prompt_tokens": text + kept,
        "completion_tokens": new,
        "total_tokens": text + kept + new,
        "prompt_tokens_details": details,
    }


def facts(outcome: Outcome, chat: Chat) -> dict[str, Any]:
    """Return what FlexSelect says of an answer: tokens, seconds by stage, moments, warnings."""
    shown = outcome.answer.to_dict()
    left_out = ("answer", "option")
    return {
        "selector": chat.selector,
        **{name: value for name, value in shown.items() if name not in left_out},
        "warnings": [*chat.warnings, *shown["warnings"]],
        "video": outcome.key,
        "reused": outcome.reused,
    }


def _reason(outcome: Outcome) -> str:
    return "stop" if outcome.finished else "length"
