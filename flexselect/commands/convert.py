"""Convert a checkpoint from its authors' layout to Hugging Face's, for tools that read only that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import InternVLForConditionalGeneration, LlavaOnevisionForConditionalGeneration

from flexselect.families import family_of
from flexselect.loading.internvl_chat import InternVLChatForConditionalGeneration
from flexselect.loading.llava_qwen import LlavaVideoForConditionalGeneration
from flexselect.loading.tokenizer_files import TOKENIZER_FILES, copy_files
from flexselect.loading.weights import LoadOptions

STOCK: dict[type, Any] = {
    LlavaVideoForConditionalGeneration: LlavaOnevisionForConditionalGeneration,
    InternVLChatForConditionalGeneration: InternVLForConditionalGeneration,
}
PROCESSOR_FILES = ("generation_config.json", "preprocessor_config.json", "video_preprocessor_config.json")


def convert(input: str, output: str) -> None:
    """Convert a checkpoint; weights keep their dtype, and tokenizer files are copied.

    Args:
        input: local folder or hub id of the checkpoint.
        output: folder to write; it must not hold a checkpoint.

    Raises:
        ValueError: if the checkpoint is unknown or damaged, or `output` already holds one.
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
    copy_files(input, folder, (*TOKENIZER_FILES, *PROCESSOR_FILES))
