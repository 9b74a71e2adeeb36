"""Ids of what people write: a special token's name in a question is text, and opens or closes no turn."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from flexselect.loading.internlm2_tokenizer import InternLM2Tokenizer
from flexselect.structures.unicode_text import text_only


def template_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of our own text: special tokens are read where they are written, none is added."""
    return tokenizer(text, add_special_tokens=False).input_ids


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of somebody's text: what is written like a special token is spelt out.

    Every such name is cut behind its first character, and the parts are read one by one.
    """
    return [id_ for part in _cut(text_only(text), reserved(tokenizer)) for id_ in template_ids(tokenizer, part)]


def filled_ids(tokenizer: Any, template: str, text: str) -> list[int]:
    """Ids of a template with "{text}" in it, filled in: special tokens of the template count, those of the text do not.

    The same as reading the whole at once, where the text has none.
    """
    text, names = text_only(text), reserved(tokenizer)
    if next(_found(text, names), None) is None:
        return template_ids(tokenizer, template.replace("{text}", text))
    before, after = template.split("{text}")
    starts = [match.end() for match in _found(before, names)] or [0]
    stop = next((match.start() for match in _found(after, names)), len(after))
    inner = text_ids(tokenizer, before[starts[-1] :] + text + after[:stop])
    return template_ids(tokenizer, before[: starts[-1]]) + inner + template_ids(tokenizer, after[stop:])


def retokenize(one: Any, other: Any, ids: list[int]) -> list[int]:
    """Ids of one tokenizer as those of another: special tokens by their names, the text between them as text.

    The begin of a text, which the other may not have, is left out.
    """
    special = {number: str(token) for number, token in one.added_tokens_decoder.items()}
    found: list[int] = []
    for is_special, run in groupby((i for i in ids if i != one.bos_token_id), special.__contains__):
        if is_special:
            found += template_ids(other, "".join(special[i] for i in run))
        else:
            found += text_ids(other, one.decode(list(run), skip_special_tokens=False))
    return found


def reserved(tokenizer: Any) -> set[str]:
    """All names that a tokenizer reads as one token that no ordinary text has."""
    if isinstance(tokenizer, InternLM2Tokenizer):
        return tokenizer.reserved
    return {str(token) for token in tokenizer.added_tokens_decoder.values()}


def _found(text: str, names: set[str]) -> Iterator[re.Match[str]]:
    present = sorted((name for name in names if name and name in text), key=len, reverse=True)
    return re.finditer("|".join(map(re.escape, present)), text) if present else iter(())


def _cut(text: str, names: set[str]) -> Iterator[str]:
    while (match := next(_found(text, names), None)) is not None:
        yield text[: match.start() + 1]
        text = text[match.start() + 1 :]
    if text:
        yield text
