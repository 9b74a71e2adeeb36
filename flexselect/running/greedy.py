"""Run a whole model of transformers: greedy decoding, and logits from pixels to compare with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList

from flexselect.attention.kernels import PADDED, attention_kernels
from flexselect.attention.layers import is_hybrid
from flexselect.attention.probe import use_attention
from flexselect.attention.states import KeysValues, Past, cache_keyword
from flexselect.running.merging import deepstack_hooks
from flexselect.structures.layout import lay_out
from flexselect.structures.prompt import VideoPrompt

CHANGES_ANSWERS = (  # entries of generation_config.json that greedy decoding follows
    *("repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens"),
    *("min_length", "min_new_tokens", "forced_bos_token_id", "forced_eos_token_id", "sequence_bias"),
)
CACHE_STEP = 1024  # tokens; decoding is compiled again for a static cache of another size


@dataclass(frozen=True)
class NewTokens:
    """The new tokens of a prompt, up to and with the first id that ends an answer."""

    ids: Tensor  # int64 [n], on the CPU
    log_likelihood: float  # the sum over the tokens of their log-probability
    past: Past | None = None  # keys and values [1, H_kv, n, d] of the prompt in each layer, if they were kept


@contextmanager
def answering(lm: Any, inputs: dict[str, Any], left_out: set[str]) -> Iterator[dict[str, Any]]:
    """Prepare a `VideoLM` for a forward pass over `inputs`; yield them without those that are left out.

    Raises:
        ValueError: if the model was loaded for scoring only.
    """
    loaded, needed = len(lm.decoder.layers), lm.family.num_layers
    if loaded < needed:
        raise ValueError(f"loaded for scoring only: {loaded} of {needed} decoder layers cannot answer")
    padded = len(inputs["input_ids"]) > 1 and lm.decoder.config._attn_implementation == "sdpa"
    attention = use_attention(lm.decoder, PADDED) if padded else nullcontext()
    with attention_kernels(lm.kernels), attention, deepstack_hooks(lm.decoder, inputs["deepstack"]):
        yield {name: value for name, value in inputs.items() if name not in left_out}


def greedy(
    model: Any,
    inputs: dict[str, Tensor],
    max_new_tokens: int,
    on_token: Callable[[Tensor], None],
    end_of_turn: int | None,
    cache_implementation: str | None = None,
    keep_past: bool = False,
) -> list[NewTokens]:
    """Generate the new tokens of each prompt; see `VideoLM.generate`."""
    # a recurrent layer cannot be cut back to the prompt
    keep_past = keep_past and not is_hybrid(model.config.get_text_config())
    stops = end_ids(model, end_of_turn)
    sampling: dict[str, Any] = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
    if cache_implementation is not None:
        needed = inputs["inputs_embeds"].shape[1] + max_new_tokens
        size = math.ceil(needed / CACHE_STEP) * CACHE_STEP
        sampling |= {"cache_implementation": cache_implementation, "max_cache_len": size}
    check, cache = _LogitsCheck(on_token), DynamicCache()
    if keep_past:  # a static cache would be of use for decoding only
        sampling = {name: value for name, value in sampling.items() if "cache" not in name}
        sampling[cache_keyword(model)] = cache
    out = model.generate(
        **inputs,
        **sampling,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(stops) or None,
        pad_token_id=min(stops, default=0),  # pads finished answers while others continue
        logits_processor=LogitsProcessorList([check]),
    )
    prompt = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    rows = [_until_end(row, stops) for row in out[:, prompt:].cpu()]
    likely = torch.stack(check.log_likelihoods, 1).cpu()  # [B, n]
    pasts = _prompts_of(cache, inputs["attention_mask"]) if keep_past else [None] * len(rows)
    return [NewTokens(ids, float(row[: len(ids)].sum()), past) for ids, row, past in zip(rows, likely, pasts)]


def _prompts_of(cache: DynamicCache, attention_mask: Tensor) -> list[Past]:
    """Return the keys and values of each prompt of a batch, padded on the left: views of the cache."""
    layers: list[Any] = cache.layers
    width = attention_mask.shape[1]
    padding = (width - attention_mask.sum(1)).tolist()
    rows = [(slice(row, row + 1), slice(None), slice(first, width)) for row, first in enumerate(padding)]
    return [[KeysValues(layer.keys[row], layer.values[row]) for layer in layers] for row in rows]


def end_ids(model: Any, end_of_turn: int | None) -> set[int]:
    """Return the ids that end an answer: those of the checkpoint's generation settings, and the end of a turn."""
    stop = model.generation_config.eos_token_id
    return {*(stop if isinstance(stop, list) else [stop]), end_of_turn} - {None}


@torch.inference_mode()
def qwen_logits(lm: Any, prompt: VideoPrompt, merge: int) -> Tensor:
    """Run a whole Qwen-VL model, which fills the placeholders itself; the positions are ours: float32 [vocab].

    Args:
        lm: the `VideoLM`.
        prompt: a clip with its text.
        merge: patches merged into one token, in each direction.
    """
    clip, texts = prompt.clip, (prompt.prefix_ids, prompt.query_ids)
    units, rows, columns = clip.grid
    layout = lay_out(*texts, range(units), rows * columns, lm.visual_id, clip.delimiters)
    out = lm.model(
        input_ids=layout.ids[None].to(lm.device),
        position_ids=lm.position_ids(layout, clip.grid, clip.seconds_per_unit)[:, None].to(lm.device),
        attention_mask=torch.ones_like(layout.ids)[None].to(lm.device),
        pixel_values_videos=lm._pixel_values(clip, 0, units).to(lm.model.dtype),
        video_grid_thw=torch.tensor([[units, rows * merge, columns * merge]], device=lm.device),
    )
    return out.logits[0, -1].float()


def _until_end(row: Tensor, stops: set[int]) -> Tensor:
    """Cut the tokens after the first id that ends an answer."""
    ends = [i for i, token in enumerate(row.tolist()) if token in stops]
    return row[: ends[0] + 1] if ends else row


class _LogitsCheck(LogitsProcessor):
    """A processor that leaves logits unchanged, reports the next tokens, refuses NaN, and keeps likelihoods.

    It comes after all other processors, so the likeliest tokens are those that greedy decoding takes.
    """

    def __init__(self, on_token: Callable[[Tensor], None]) -> None:
        self.on_token = on_token
        self.log_likelihoods: list[Tensor] = []  # of the likeliest token: [B] each

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.on_token(scores.argmax(-1))
        if torch.isnan(scores).any():
            raise ValueError("the model's logits are NaN: load it in bfloat16 or float32, and check its weights")
        self.log_likelihoods.append(scores.amax(-1).float() - scores.float().logsumexp(-1))
        return scores
