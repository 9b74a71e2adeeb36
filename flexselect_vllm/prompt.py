"""A prompt on its way to vLLM: one multimodal item, named as vLLM's clients may name one."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from flexselect.engine.answer_engines import Prompt

MODALITY = "video"  # OpenAI's clients can send `video_embeds`
FIELDS = {"prompt_embeds": 2, "positions": 2, "ids": 1}  # with their dimensions: [N, (1 + E) * D], [N, 3], [N]
ARGUMENTS: dict[str, Any] = {  # of vLLM's engine, as prompts need them
    "enable_mm_embeds": True,
    "limit_mm_per_prompt": {MODALITY: 1},
    "skip_mm_profiling": True,
    "mm_processor_cache_gb": 0,  # no prompt comes twice
    "logprobs_mode": "processed_logprobs",  # after the repetition penalty, as ours
}


def fields_of(prompt: Prompt) -> dict[str, Tensor]:
    """Return the tensors of an item."""
    return dict(zip(FIELDS, (prompt.embeddings, prompt.positions, prompt.ids)))
