"""Read a chat request: which video, which question, after which turns, with which options."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from flexselect.nearest import did_you_mean
from flexselect.serving.refusals import RefusedError, bad
from flexselect.structures.frames import ReadOptions

MOST_TEXT = 65_536  # characters of all turns together
MOST_TOKENS = 8_192  # that a request may ask for
MOST_MESSAGES, MOST_FRAMES = 1_000, 4_096
MOST_UUID, MOST_ADDRESS = 256, 8_192  # characters
SELECTORS = ("none", "self", "lite", "uniform", "random")
WITHOUT_EFFECT = ("user", "seed", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "top_p")
ONLY: dict[str, tuple[Any, ...]] = {  # OpenAI's fields that have one value here
    "temperature": (0,),
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "stop": ([], ""),
    "tools": ([],),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
SAMPLING = ("media_io_kwargs", "mm_processor_kwargs")  # other servers' fields for which frames are read
OURS = ("selector", "budget", "start", "end", "verify")
KNOWN = ("model", "messages", "max_tokens", "max_completion_tokens", "stream", "stream_options")


@dataclass(frozen=True)
class VideoPart:
    """The video of a request: one address of a video, or the addresses of its frames."""

    urls: tuple[str, ...]  # empty: a video that was sent before, by its uuid
    uuid: str | None = None  # the client's name of the video
    is_frames: bool = False


@dataclass(frozen=True)
class Chat:
    """A request for the answer to one question about one video."""

    video: VideoPart
    question: str
    history: tuple[tuple[str, str], ...] = ()  # earlier questions with their answers
    max_new_tokens: int = 64
    selector: str = "self"
    budget: int | None = None
    verify: bool = False
    reading: ReadOptions = field(default_factory=ReadOptions)
    stream: bool = False
    include_usage: bool = False
    warnings: tuple[str, ...] = ()


def read_chat(body: bytes, model: str, max_new_tokens: int, selectors: Sequence[str]) -> Chat:
    """Read a request.

    Args:
        body: JSON.
        model: the model's name.
        max_new_tokens: the maximum length of an answer if the request names none.
        selectors: values of `selector` that this server has; the first is the default.

    Raises:
        RefusedError: naming the field, the reason, and what to do.
    """
    asked = _parsed(body)
    known = (*KNOWN, *OURS, *WITHOUT_EFFECT, *SAMPLING, *ONLY)
    for name in asked:
        if name not in known:
            raise bad(
                f"there is no field {_shown(name)}{did_you_mean(name, known)}", _shown(name).strip("'"), "unknown_field"
            )
    for name, values in ONLY.items():
        if asked.get(name) is not None and asked[name] not in values:
            wanted = json.dumps(values[0])
            raise bad(f"{name} can only be {wanted}: answers are greedy, in text, one per request", name)
    if _of(asked, "model", str, model) != model:
        raise RefusedError(
            404, f"there is no model {_shown(asked['model'])}: it is {model}", "model", "model_not_found"
        )
    _of(asked, "top_p", (int, float), 1)
    video, question, history, warnings = _read_messages(asked.get("messages"))
    options = _of(asked, "stream_options", dict, {})
    fixed = [
        f"{name} has no effect: the server's options say which frames are read" for name in SAMPLING if asked.get(name)
    ]
    return Chat(
        video,
        question,
        history,
        _length(asked, max_new_tokens),
        _selector(asked, selectors),
        _count(asked, "budget", 1, 10**9, None),
        _of(asked, "verify", bool, False),
        _reading(asked, video),
        _of(asked, "stream", bool, False),
        _of(options, "include_usage", bool, False),
        (*warnings, *fixed),
    )


def _parsed(body: bytes) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no number of JSON")

    try:
        asked = json.loads(body, parse_constant=refuse)
    except RecursionError as error:
        raise bad("the body is nested too deeply") from error
    except ValueError as error:
        raise bad(f"the body is not JSON: {str(error)[:200]}") from error
    if not isinstance(asked, dict):
        raise bad("the body must be a JSON object")
    return asked


def _of(asked: dict[str, Any], name: str, kind: type | tuple[type, ...], default: Any) -> Any:
    """Return a field's value, of one kind; null means the default."""
    value = asked.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        names = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise bad(f"{name} must be {names}, got {_shown(value)}", name)
    return value


def _count(asked: dict[str, Any], name: str, least: int, most: int, default: Any) -> Any:
    value = _of(asked, name, int, None)
    if value is not None and not least <= value <= most:
        raise bad(f"{name} must be from {least:,} to {most:,}, got {_shown(value)}", name)
    return default if value is None else value


def _length(asked: dict[str, Any], default: int) -> int:
    """Return the maximum length of the answer, under either of its names."""
    lengths = [_count(asked, name, 1, MOST_TOKENS, None) for name in ("max_completion_tokens", "max_tokens")]
    return next((length for length in lengths if length is not None), default)


def _selector(asked: dict[str, Any], selectors: Sequence[str]) -> str:
    value = _of(asked, "selector", str, selectors[0])
    if value not in selectors:
        why = "this server was started without a trained selector; " if value == "lite" else ""
        raise bad(f"{why}selector must be one of {', '.join(selectors)}, got {_shown(value)}", "selector")
    if value == "none" and asked.get("budget") is not None:
        raise bad(
            'a budget has no effect with selector "none", which keeps all tokens: leave one of them out', "budget"
        )
    if value in ("none", "uniform", "random") and asked.get("verify"):
        raise bad(f'verify needs scores that point to moments: selector "self" or "lite", not "{value}"', "verify")
    return value


def _reading(asked: dict[str, Any], video: VideoPart) -> ReadOptions:
    times = [_of(asked, name, (int, float, str), None) for name in ("start", "end")]
    if video.is_frames and any(time is not None for time in times):
        raise bad("start and end are for a video, not for frames", "start")
    try:
        return ReadOptions.of(*times)
    except (ValueError, OverflowError) as error:
        raise bad(str(error)[:300], "start") from error


def _read_messages(messages: Any) -> tuple[VideoPart, str, tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Return the video, the last question, the turns before it, and warnings."""
    if not isinstance(messages, list) or not messages:
        raise bad("messages must be a list with at least one message", "messages")
    if len(messages) > MOST_MESSAGES:
        raise bad(f"there are {len(messages):,} messages; at most {MOST_MESSAGES:,} are read", "messages")
    turns: list[tuple[str, str]] = []  # (role, text); neighbours have different roles
    videos: dict[VideoPart, None] = {}
    frames: list[str] = []
    warnings: list[str] = []
    for number, message in enumerate(messages):
        role, text = _read_message(message, f"messages[{number}]", videos, frames)
        if role in ("system", "developer"):
            role = "user"
            warnings = ["the system message is read as the beginning of the question that follows it"]
        if turns and turns[-1][0] == role:
            text = "\n".join(filter(None, (turns.pop()[1], text)))
        turns.append((role, text))
    if turns[-1][0] != "user" or not turns[-1][1].strip():
        raise bad("the last message must be the user's, with a question", "messages")
    if turns[0][0] != "user":
        raise bad("the first message must be the user's or the system's", "messages")
    if sum(len(text) for _, text in turns) > MOST_TEXT:
        raise bad(f"the text of all messages is longer than {MOST_TEXT:,} characters", "messages")
    texts = [text for _, text in turns]
    return _one_video(videos, frames), texts[-1], tuple(zip(texts[:-1:2], texts[1::2])), tuple(warnings)


def _one_video(videos: dict[VideoPart, None], frames: list[str]) -> VideoPart:
    if len(videos) + bool(frames) > 1:
        kinds = f"{len(videos)} videos" + (f" and {len(frames)} frames" if frames else "")
        raise bad(f"a question is about one video; the messages have {kinds}: ask about each by itself", "messages")
    if len(frames) > MOST_FRAMES:
        raise bad(f"there are {len(frames):,} frames; at most {MOST_FRAMES:,} are read", "messages")
    if frames:
        return VideoPart(tuple(frames), is_frames=True)
    if not videos:
        part = '{"type": "video_url", "video_url": {"url": ...}}'
        raise bad(f"there is no video: one message must have a part {part}", "messages", "no_video")
    return next(iter(videos))


def _read_message(message: Any, where: str, videos: dict[VideoPart, None], frames: list[str]) -> tuple[str, str]:
    """Return role and text of a message; add its video or frames to those of the others."""
    if not isinstance(message, dict):
        raise bad(f"{where} must be an object with role and content", where)
    role, content = message.get("role"), message.get("content")
    if role not in ("system", "developer", "user", "assistant"):
        raise bad(f"{where}.role must be system, user or assistant, got {_shown(role)}", f"{where}.role")
    if isinstance(content, str):
        return role, content
    if not isinstance(content, list):
        raise bad(f"{where}.content must be a text or a list of parts", f"{where}.content")
    texts = []
    for number, part in enumerate(content):
        place = f"{where}.content[{number}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in ("video_url", "image_url") and role == "user":
            video = _read_video(part, kind, place)
            if kind == "image_url":
                frames += video.urls
            else:
                videos[video] = None
        elif kind in ("text", "video_url", "image_url"):
            raise bad(f"{place}: a text must be a string, and a video belongs to the user's message", place)
        else:
            raise bad(f"{place}.type must be text, video_url or image_url (a frame), got {_shown(kind)}", place)
    return role, "\n".join(texts)


def _read_video(part: dict[str, Any], kind: str, place: str) -> VideoPart:
    inner, uuid = part.get(kind), part.get("uuid")
    url = inner.get("url") if isinstance(inner, dict) else inner
    if uuid is not None and (not isinstance(uuid, str) or not 0 < len(uuid) <= MOST_UUID):
        raise bad(f"{place}.uuid must be a text of at most {MOST_UUID} characters", f"{place}.uuid")
    if url is None and uuid is not None and kind == "video_url":
        return VideoPart((), uuid)
    if not isinstance(url, str) or not url:
        raise bad(f'{place}.{kind} must be {{"url": ...}}', f"{place}.{kind}")
    if len(url) > MOST_ADDRESS and not url.lower().startswith("data:"):
        raise bad(f"{place}.{kind}.url is longer than {MOST_ADDRESS:,} characters", f"{place}.{kind}")
    return VideoPart((url,), uuid)


def _shown(value: Any) -> str:
    """Show a value of a request in a message: short, and printable."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
