"""Greedy decoding with transformers' `generate`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

CACHE_STEP = 1024  # tokens; decoding is compiled again for a static cache of another size


def greedy(
    model: Any,
    inputs: dict[str, Tensor],
    max_new_tokens: int,
    on_token: Callable[[], None],
    end_of_turn: int | None,
    cache_implementation: str | None = None,
) -> list[Tensor]:
    """Generate; return the new tokens of each prompt, int64 [n], up to and with the first id that ends an answer.

    See `VideoLM.generate`.
    """
    stop = model.generation_config.eos_token_id
    stops = {*(stop if isinstance(stop, list) else [stop]), end_of_turn} - {None}
    sampling: dict[str, Any] = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
    if cache_implementation is not None:
        needed = inputs["inputs_embeds"].shape[1] + max_new_tokens
        size = math.ceil(needed / CACHE_STEP) * CACHE_STEP
        sampling |= {"cache_implementation": cache_implementation, "max_cache_len": size}
    out = model.generate(
        **inputs,
        **sampling,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(stops) or None,
        pad_token_id=min(stops, default=0),  # pads finished answers while others continue
        logits_processor=LogitsProcessorList([_LogitsCheck(on_token)]),
    )
    prompt = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    return [_until_end(row, stops) for row in out[:, prompt:]]


def _until_end(row: Tensor, stops: set[int]) -> Tensor:
    """Cut the tokens after the first id that ends an answer."""
    ends = [i for i, token in enumerate(row.tolist()) if token in stops]
    return row[: ends[0] + 1] if ends else row


class _LogitsCheck(LogitsProcessor):
    """A processor that leaves logits unchanged, reports when they are computed, and refuses NaN."""

    def __init__(self, on_token: Callable[[], None]) -> None:
        self.on_token = on_token

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.on_token()
        if torch.isnan(scores).any():
            raise ValueError("the model's logits are NaN: load it in bfloat16 or float32, and check its weights")
        return scores
