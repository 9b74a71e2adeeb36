"""Prompts of several lengths as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad


def left_padded(inputs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Prompts of `VideoLM.assemble` side by side, the shorter ones padded at their left and the padding masked."""
    if len(inputs) == 1:
        return dict(inputs[0])
    lengths = [one["input_ids"].shape[1] for one in inputs]
    missing = [max(lengths) - length for length in lengths]
    rows = {
        name: torch.cat([pad(one[name], (m, 0)) for one, m in zip(inputs, missing)], dim=-2)
        for name in ("input_ids", "position_ids", "attention_mask")
    }
    embeddings = torch.cat([pad(one["inputs_embeds"], (0, 0, m, 0)) for one, m in zip(inputs, missing)])
    deepstack = {}
    if inputs[0]["deepstack"]:
        deep = [one["deepstack"] for one in inputs]
        places = torch.cat([pad(one["visual_pos_masks"], (m, 0)) for one, m in zip(deep, missing)])
        levels = [torch.cat(level) for level in zip(*(one["deepstack_visual_embeds"] for one in deep))]
        deepstack = {"visual_pos_masks": places, "deepstack_visual_embeds": levels}
    return {**rows, "inputs_embeds": embeddings, "deepstack": deepstack}
