"""A training checkpoint's selector, as a folder that `LiteSelector.from_pretrained` reads."""

from __future__ import annotations

from pathlib import Path

import torch

from flexselect.selector import LiteSelector, LiteSelectorConfig

PREFIX = "selector."
CARD = """---
library_name: flexselect
tags: [video-question-answering, token-selection]
---
# Selector

Ranks the visual tokens of a long video by their use for a question (FlexSelect-Lite, arXiv 2506.00993).
Trained against layer {layer} of `{teacher}`, reduction `{reduction}`, loss `{loss}`, {steps} steps.

    FlexSelect.from_pretrained("{teacher}", selector="this folder")
"""


def export(ckpt_path: str, output: str) -> None:
    """Write config.json, model.safetensors and a model card.

    Args:
        ckpt_path: a checkpoint that `fit` wrote while it trained a selector.
        output: folder to write; must not hold a checkpoint yet.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: not one of a selector, or `output` holds a checkpoint already.
    """
    if not Path(ckpt_path).is_file():
        raise FileNotFoundError(f"{ckpt_path}: no such checkpoint")
    if (Path(output) / "config.json").exists():
        raise ValueError(f"{output} holds a checkpoint already; give another --output, or delete it")
    try:
        checkpoint = torch.load(ckpt_path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and EOF errors, by what is broken
        raise ValueError(f"{ckpt_path} cannot be read as a checkpoint: {error}") from error
    about = checkpoint.get("selector")
    if about is None:
        raise ValueError(f"{ckpt_path} holds no selector: it was not written by a selector's training")
    selector = LiteSelector(LiteSelectorConfig.from_dict(about["config"]))
    weights = {name[len(PREFIX) :]: w for name, w in checkpoint["state_dict"].items() if name.startswith(PREFIX)}
    selector.load_state_dict(weights)
    selector.save_pretrained(output)
    (Path(output) / "README.md").write_text(CARD.format(**about["card"]))
