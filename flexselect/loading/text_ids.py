"""Convert user text to ids: the name of a special token in a question is treated as plain text."""

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
    """Convert user text to ids; the name of a special token becomes plain text.

    Each such name is cut after its first character, and the parts are tokenized separately.
    """
    return [
        id_ for part in _parts(replace_surrogates(text), reserved(tokenizer)) for id_ in template_ids(tokenizer, part)
    ]


def filled_ids(tokenizer: Any, template: str, text: str) -> list[int]:
    """Fill in the "{text}" of a template and convert it to ids; special tokens are recognised in the template only.

    If the text holds no name of a special token, the result equals tokenizing the whole at once.
    """
    text, names = replace_surrogates(text), reserved(tokenizer)
    if next(_matches(text, names), None) is None:
        return template_ids(tokenizer, template.replace("{text}", text))
    before, after = template.split("{text}")
    starts = [match.end() for match in _matches(before, names)] or [0]
    stop = next((match.start() for match in _matches(after, names)), len(after))
    inner = text_ids(tokenizer, before[starts[-1] :] + text + after[:stop])
    return template_ids(tokenizer, before[: starts[-1]]) + inner + template_ids(tokenizer, after[stop:])


def retokenize(source: Any, target: Any, ids: list[int]) -> list[int]:
    """Convert ids of one tokenizer to another's: special tokens by name, the rest as text.

    A begin-of-text token is left out, since the target tokenizer may have none.
    """
    special = {number: str(token) for number, token in source.added_tokens_decoder.items()}
    converted: list[int] = []
    for is_special, run in groupby((i for i in ids if i != source.bos_token_id), special.__contains__):
        if is_special:
            converted += template_ids(target, "".join(special[i] for i in run))
        else:
            converted += text_ids(target, source.decode(list(run), skip_special_tokens=False))
    return converted


def reserved(tokenizer: Any) -> set[str]:
    """Return all names that a tokenizer reads as one special token."""
    if isinstance(tokenizer, InternLM2Tokenizer):
        return tokenizer.reserved
    return {str(token) for token in tokenizer.added_tokens_decoder.values()}


def _matches(text: str, names: set[str]) -> Iterator[re.Match[str]]:
    """Find names of special tokens in a text; of names that overlap, the longest."""
    present = sorted((name for name in names if name and name in text), key=len, reverse=True)
    return re.finditer("|".join(map(re.escape, present)), text) if present else iter(())


def _parts(text: str, names: set[str]) -> Iterator[str]:
    """Cut a text after the first character of each name of a special token."""
    while (match := next(_matches(text, names), None)) is not None:
        yield text[: match.start() + 1]
        text = text[match.start() + 1 :]
    if text:
        yield text
