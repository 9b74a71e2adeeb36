"""A checkpoint's tokenizer: load it, check that it is the model's, copy its files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.utils import cached_file

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
)


def copy_files(path: str, folder: Path, names: Sequence[str]) -> None:
    """Copy the named files of a checkpoint into a folder; missing files are skipped, existing ones kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        file = cached_file(path, name, _raise_exceptions_for_missing_entries=False)
        if file is not None and not (folder / name).exists():
            shutil.copy(file, folder / name)


def checked_tokenizer(
    path: str, load: Callable[[str], Any], special: Mapping[str, int | None], text: PreTrainedConfig | None = None
) -> Any:
    """Load a tokenizer and check that it fits the model; a folder without a tokenizer silently gives an empty one.

    Args:
        path: the checkpoint.
        load: function from path to tokenizer.
        special: special tokens that must be single ids, and their expected ids; None: any id.
        text: configuration of the language model, whose vocabulary the tokenizer must fit; None: any vocabulary.

    Raises:
        ValueError: naming the token that is read otherwise, or the size that does not fit.
    """
    try:
        tokenizer = load(path)
        ids_by_token = {token: tokenizer(token, add_special_tokens=False).input_ids for token in special}
    except Exception as error:  # the type depends on which file is damaged
        raise ValueError(f"the tokenizer at {path} is missing or does not belong to the model: {error}") from error
    for token, expected in special.items():
        ids = ids_by_token[token]
        if len(ids) != 1 or expected not in (None, ids[0]):
            raise ValueError(
                f"the tokenizer at {path} is missing or does not belong to the model: "
                f"it reads {token} as {ids}, not as {'one id' if expected is None else expected}"
            )
    if text is not None and len(tokenizer) > text.vocab_size:
        size = f"it has {len(tokenizer)} tokens, the model's vocabulary {text.vocab_size}"
        raise ValueError(f"the tokenizer at {path} does not belong to the model: {size}")
    eos = text.eos_token_id if text is not None else None
    if isinstance(eos, int) and eos not in tokenizer.added_tokens_decoder:
        raise ValueError(f"the tokenizer at {path} does not belong to the model: it has no end-of-text token {eos}")
    return tokenizer
