"""Export the selector of a training checkpoint as a folder for `LiteSelector.from_pretrained`."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch

from flexselect.selectors.lite_selector import LiteSelector, LiteSelectorConfig
from flexselect.training.adapters import add_lora, merge_lora

PREFIX = "selector."


def export(ckpt_path: str, output: str, overwrite: bool = False) -> str:
    """Write config.json, model.safetensors, a model card and, if the selector has a separate tokenizer, its files.

    Args:
        ckpt_path: a checkpoint that `fit` wrote when training a selector.
        output: folder to write.
        overwrite: replace an existing selector.

    Returns:
        A sentence about what was written.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if it is not a checkpoint of a selector, or `output` already holds a checkpoint.
    """
    if (Path(output) / "config.json").exists() and not overwrite:
        raise ValueError(f"{output} holds a checkpoint already; give another --output, or delete it")
    checkpoint = read_checkpoint(ckpt_path)
    about = checkpoint.get("selector")
    if about is None:
        raise ValueError(f"{ckpt_path} holds no selector: it was not written by a selector's training")
    selector = LiteSelector(LiteSelectorConfig.from_dict(about["config"]))
    selector.name_or_path = about["tokenizer"]
    if about["lora"] is not None:
        add_lora(selector, about["lora"])
    weights = {name[len(PREFIX) :]: w for name, w in checkpoint["state_dict"].items() if name.startswith(PREFIX)}
    selector.load_state_dict(weights)
    if about["lora"] is not None:
        merge_lora(selector)
    selector.config.training = about["card"]
    selector.save_pretrained(output)
    return f"{ckpt_path} is exported to {output}\n"


def read_checkpoint(ckpt_path: str) -> dict[str, Any]:
    """Load a checkpoint of `fit`, mapped into memory.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: naming a file that is damaged, or not a training checkpoint.
    """
    if Path(ckpt_path).is_dir():
        raise ValueError(
            f"{ckpt_path} is a folder; a checkpoint that `fit` wrote is a file, for example checkpoints/best.ckpt"
        )
    if not Path(ckpt_path).is_file():
        raise FileNotFoundError(f"{ckpt_path}: no such checkpoint")
    if not is_zipfile(ckpt_path):
        raise ValueError(f"{ckpt_path} cannot be read as a checkpoint: it is cut short, or another kind of file")
    try:
        checkpoint = torch.load(ckpt_path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # pickle, zip or EOF errors, depending on what is damaged
        reason = str(error).partition(". ")[0]  # torch adds advice that does not fit here
        raise ValueError(f"{ckpt_path} cannot be read as a checkpoint: {reason}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"{ckpt_path} is no checkpoint of a training: it holds no state_dict")
    return checkpoint
