"""Write a checkpoint of any known layout in Hugging Face layout, for tools that read only that."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from transformers import InternVLForConditionalGeneration, LlavaOnevisionForConditionalGeneration
from transformers.utils import cached_file

from flexselect.checkpoints.internvl_chat import InternVLChatForConditionalGeneration
from flexselect.checkpoints.llava_qwen import LlavaVideoForConditionalGeneration
from flexselect.families import family_of
from flexselect.families.loading import LoadOptions

STOCK: dict[type, Any] = {
    LlavaVideoForConditionalGeneration: LlavaOnevisionForConditionalGeneration,
    InternVLChatForConditionalGeneration: InternVLForConditionalGeneration,
}
OTHER_FILES = (  # copied as they are
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "chat_template.json",
    "chat_template.jinja",
)


def convert(input: str, output: str) -> None:
    """Convert a checkpoint; weights keep their dtype, tokenizer files are copied as they are.

    Args:
        input: local folder or hub id.
        output: folder to write; must not hold a checkpoint yet.

    Raises:
        ValueError: if the checkpoint is unknown or does not fit, or `output` holds one already.
    """
    folder = Path(output)
    if (folder / "config.json").exists():
        raise ValueError(f"{output} holds a checkpoint already; give another --output, or delete it")
    family = family_of(input)
    model = family.load(LoadOptions(dtype="auto")).model
    stock = STOCK.get(type(model))
    if stock is not None:
        weights = model.state_dict()
        model = stock._from_config(model.config, dtype=model.dtype)
        model.load_state_dict(weights, assign=True)
    if "flexselect" in family.config:
        model.config.flexselect = family.config["flexselect"]
    model.save_pretrained(folder)
    for name in OTHER_FILES:
        found = cached_file(input, name, _raise_exceptions_for_missing_entries=False)
        if found is not None and not (folder / name).exists():
            shutil.copy(found, folder / name)
