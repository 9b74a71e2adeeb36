"""Greedy decoding through transformers' own `generate`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList


def greedy(
    model: Any, inputs: dict[str, Tensor], max_new_tokens: int, on_token: Callable[[], None], end_of_turn: int | None
) -> Tensor:
    """New tokens, int64 [n]; see `VideoLM.generate`."""
    stop = model.generation_config.eos_token_id
    stops = [*(stop if isinstance(stop, list) else [stop]), end_of_turn]
    greedily = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
    out = model.generate(
        **inputs,
        **greedily,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted({number for number in stops if number is not None}) or None,
        logits_processor=LogitsProcessorList([_Watch(on_token)]),
    )
    return out[0, inputs["input_ids"].shape[1] :]


class _Watch(LogitsProcessor):
    """Changes nothing; says when logits are there, and refuses NaN."""

    def __init__(self, on_token: Callable[[], None]) -> None:
        self.on_token = on_token

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.on_token()
        if torch.isnan(scores).any():
            raise ValueError("the model's logits are NaN: load it in bfloat16 or float32, and check its weights")
        return scores
