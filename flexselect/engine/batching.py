"""Batch prompts of different lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad


def left_padded(inputs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack prompts of `VideoLM.assemble` into one batch; shorter prompts are padded on the left and masked there."""
    if len(inputs) == 1:
        return dict(inputs[0])
    lengths = [prompt["input_ids"].shape[1] for prompt in inputs]
    missing = [max(lengths) - length for length in lengths]
    rows = {
        name: torch.cat([pad(prompt[name], (m, 0)) for prompt, m in zip(inputs, missing)], dim=-2)
        for name in ("input_ids", "position_ids", "attention_mask")
    }
    embeddings = torch.cat([pad(prompt["inputs_embeds"], (0, 0, m, 0)) for prompt, m in zip(inputs, missing)])
    deepstack = {}
    if inputs[0]["deepstack"]:
        deep = [prompt["deepstack"] for prompt in inputs]
        masks = torch.cat([pad(prompt["visual_pos_masks"], (m, 0)) for prompt, m in zip(deep, missing)])
        levels = [torch.cat(level) for level in zip(*(prompt["deepstack_visual_embeds"] for prompt in deep))]
        deepstack = {"visual_pos_masks": masks, "deepstack_visual_embeds": levels}
    return {**rows, "inputs_embeds": embeddings, "deepstack": deepstack}
