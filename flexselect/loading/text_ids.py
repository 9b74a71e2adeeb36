"""Convert user text to ids: the name of a special token in a question is plain text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from flexselect.loading.internlm2_tokenizer import InternLM2Tokenizer
from flexselect.structures.unicode_text import replace_surrogates


def template_ids(tokenizer: Any, text: str) -> list[int]:
    """Convert a template to ids: special tokens are recognised, none are added."""
    return tokenizer(text, add_special_tokens=False).input_ids


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Convert user text to ids: names of special tokens are spelt out as plain text.

    Each such name is cut after its first character, and the parts are tokenized separately.
    """
    return [
        id_ for part in _cut(replace_surrogates(text), reserved(tokenizer)) for id_ in template_ids(tokenizer, part)
    ]


def filled_ids(tokenizer: Any, template: str, text: str) -> list[int]:
    """Fill in a template with "{text}" and convert it to ids; special tokens are recognised in the template only.

    If the text has no such name, the result equals tokenizing the whole at once.
    """
    text, names = replace_surrogates(text), reserved(tokenizer)
    if next(_found(text, names), None) is None:
        return template_ids(tokenizer, template.replace("{text}", text))
    before, after = template.split("{text}")
    starts = [match.end() for match in _found(before, names)] or [0]
    stop = next((match.start() for match in _found(after, names)), len(after))
    inner = text_ids(tokenizer, before[starts[-1] :] + text + after[:stop])
    return template_ids(tokenizer, before[: starts[-1]]) + inner + template_ids(tokenizer, after[stop:])


def retokenize(one: Any, other: Any, ids: list[int]) -> list[int]:
    """Convert ids of one tokenizer to another's: special tokens by name, other text as text.

    A begin-of-text token is left out, since the other tokenizer may have none.
    """
    special = {number: str(token) for number, token in one.added_tokens_decoder.items()}
    converted: list[int] = []
    for is_special, run in groupby((i for i in ids if i != one.bos_token_id), special.__contains__):
        if is_special:
            converted += template_ids(other, "".join(special[i] for i in run))
        else:
            converted += text_ids(other, one.decode(list(run), skip_special_tokens=False))
    return converted


def reserved(tokenizer: Any) -> set[str]:
    """Return all names that a tokenizer reads as one special token."""
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
