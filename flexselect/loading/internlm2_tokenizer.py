"""InternLM2's tokenizer from `tokenizer.model`. The hub's version is a slow tokenizer that needs remote code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import AutoTokenizer, PreTrainedConfig
from transformers.utils import cached_file


class InternLM2Tokenizer:
    """Conversion of text to ids and back: special tokens by name, other text by SentencePiece.

    Args:
        model: path of `tokenizer.model`.
        special: ids of special tokens by content.
    """

    bos_token_id = 1

    def __init__(self, model: Path, special: dict[str, int]) -> None:
        from sentencepiece import SentencePieceProcessor

        self.pieces = SentencePieceProcessor(model_file=str(model))
        self.special = special
        self.split = re.compile(
            "(" + "|".join(re.escape(token) for token in sorted(special, key=len, reverse=True)) + ")"
        )

    def __call__(self, text: str, add_special_tokens: bool = False) -> SimpleNamespace:
        """Convert a text to ids, under `input_ids` as transformers does; `add_special_tokens` puts <s> first."""
        ids = [self.bos_token_id] if add_special_tokens else []
        for part in self.split.split(text):
            if part:
                ids += [self.special[part]] if part in self.special else self.pieces.encode(part)
        return SimpleNamespace(input_ids=ids)

    def __len__(self) -> int:
        """Return the largest id plus one."""
        return max(self.pieces.get_piece_size(), *(number + 1 for number in self.special.values()))

    @property
    def added_tokens_decoder(self) -> dict[int, str]:
        """Names of special tokens by id, including SentencePiece's control tokens."""
        control = {i: self.pieces.id_to_piece(i) for i in range(3)}  # <unk>, <s>, </s>
        return control | {number: token for token, number in self.special.items()}

    @property
    def reserved(self) -> set[str]:
        """All names of special tokens, and names that the SentencePiece vocabulary reserves for them."""
        size = self.pieces.get_piece_size()
        return {*self.special, *(self.pieces.id_to_piece(i) for i in self.special.values() if i < size)}

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """Convert ids to text; special tokens are skipped, or written by name."""
        names = {number: token for token, number in self.special.items()}
        text, run = "", []
        for number in [*ids, None]:
            if number is not None and number not in names and number < self.pieces.get_piece_size():
                run.append(number)
                continue
            text += self.pieces.decode(run)
            run = []
            if not skip_special_tokens and number in names:
                text += names[number]
        return text


def special_tokens(path: str) -> dict[str, int]:
    """Read the ids of a checkpoint's special tokens, by content; empty if its tokenizer files list none."""
    ids: dict[str, int] = {}
    for name, field in (("tokenizer.json", "added_tokens"), ("tokenizer_config.json", "added_tokens_decoder")):
        file = cached_file(path, name, _raise_exceptions_for_missing_entries=False)
        tokens = json.loads(Path(file).read_text(encoding="utf-8")).get(field, []) if file is not None else []
        listed = tokens if isinstance(tokens, list) else [{"id": number, **token} for number, token in tokens.items()]
        ids |= {token["content"]: int(token["id"]) for token in listed}
    return ids


def load_tokenizer(path: str) -> Any:
    """Load the tokenizer of an InternVL checkpoint: InternLM2's from `tokenizer.model`, others with AutoTokenizer."""
    files = {
        name: cached_file(path, name, _raise_exceptions_for_missing_entries=False)
        for name in ("tokenizer.json", "tokenizer.model")
    }
    if files["tokenizer.json"] is not None or files["tokenizer.model"] is None:
        config = PreTrainedConfig()  # an empty one, because AutoTokenizer does not know "internvl_chat"
        return AutoTokenizer.from_pretrained(path, config=config, trust_remote_code=False)
    return InternLM2Tokenizer(Path(str(files["tokenizer.model"])), special_tokens(path))
