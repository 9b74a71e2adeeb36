"""The probe: how strongly the query rows attend to the visual tokens at one layer (FlexSelect, section 3.1).

The decoder runs unmodified up to the reference layer. There the attention function gets q and k after RoPE, reduces
them to one score per visual token, and ends the forward pass: nothing after the reference layer is computed.

The score of visual token j is the max (or mean) over heads and query rows of softmax(q k^T / sqrt(d))[row, j], the
softmax taken over all keys: prefix, visual and earlier text. It is computed in float32 from a log-sum-exp over chunks
of keys, so no [H, Q, N] tensor ever exists. (The released code forms that tensor in bfloat16.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, causal_mask_function, sdpa_mask

from flexselect.attention.kernels import attention_kernels
from flexselect.attention.states import Past, cache_keyword, cache_of, empty_cache, states_in

PROBED = "flexselect_probe"  # the attention function's name in transformers
REDUCTIONS = {
    "max": "max",
    "mean": "mean",
    # Names of the released code and what its functions compute; its documentation calls `token_selection` a mean.
    "token_selection": "max",
    "token_selection_qwen": "max",
    "token_selection_mean": "mean",
    "token_selection_qwen_mean": "mean",
    "token_selection_argmax": "max",  # named in the released README only; no such function was released
}


def resolve_reduction(name: str) -> str:
    """Return "max" or "mean" for the name of a reduction; names of the released code work too."""
    if name not in REDUCTIONS:
        raise ValueError(f"unknown reduction {name!r}; choose one of {', '.join(REDUCTIONS)}")
    return REDUCTIONS[name]


def visual_attention(
    q: Tensor,
    k: Tensor,
    visual: slice,
    scaling: float,
    reduction: str = "max",
    chunk: int = 1024,
    row_counts: Tensor | None = None,
) -> Tensor:
    """Reduce causal attention of the last Q positions to one score per visual token.

    Args:
        q: [B, H, Q, d], queries of the last Q positions, after RoPE.
        k: [B, H_kv, N, d], keys of all positions, after RoPE; H is a multiple of H_kv.
        visual: the range of visual tokens among the N keys.
        scaling: factor on the logits, 1 / sqrt(d).
        reduction: "max" or "mean", over heads and query rows jointly.
        chunk: keys per step; changes memory, not the result.
        row_counts: int64 [B], the number of real query rows if queries are padded at the end; None: all Q.

    Returns:
        float32 [B, V], attention probabilities in 0..1.
    """
    heads, rows, kv_heads, keys = q.shape[1], q.shape[2], k.shape[1], k.shape[2]
    grouped = q.float().unflatten(1, (kv_heads, heads // kv_heads)).flatten(2, 3) * scaling  # [B, H_kv, g*Q, d]
    last_key = torch.arange(keys - rows, keys, device=q.device).repeat(heads // kv_heads)  # [g*Q]

    def logits(start: int, stop: int) -> Tensor:
        out = grouped @ k[:, :, start:stop].float().transpose(-1, -2)  # [B, H_kv, g*Q, c]
        text = max(start, keys - rows)  # only text attends to text: everything earlier is visible to every query row
        if stop > text:
            hidden = torch.arange(text, stop, device=q.device) > last_key[:, None]
            out[..., text - start :].masked_fill_(hidden, float("-inf"))
        return out

    count = torch.tensor([rows]) if row_counts is None else row_counts
    count = count.to(q.device)[:, None]  # [B, 1], or [1, 1]
    if keys <= chunk:
        whole = logits(0, keys).log_softmax(-1)
    else:
        lse = torch.full(grouped.shape[:-1], float("-inf"), device=q.device)
        for start in range(0, keys, chunk):
            lse = torch.logaddexp(lse, logits(start, min(start + chunk, keys)).logsumexp(-1))

    scores = torch.empty(q.shape[0], visual.stop - visual.start, device=q.device)
    for start in range(visual.start, visual.stop, chunk):
        stop = min(start + chunk, visual.stop)
        log_p = whole[..., start:stop] if keys <= chunk else logits(start, stop).sub_(lse[..., None])
        if row_counts is not None:  # padding attends to nothing
            padding = (torch.arange(rows, device=q.device) >= count).repeat(1, heads // kv_heads)  # [B, g*Q]
            log_p = log_p.masked_fill(padding[:, None, :, None], float("-inf"))
        reduced = log_p.amax((1, 2)).exp() if reduction == "max" else log_p.exp().sum((1, 2)) / (heads * count)
        scores[:, start - visual.start : stop - visual.start] = reduced
    return scores


@dataclass
class Probe:
    """The computation at the reference layer. It reaches the attention function as a keyword of the forward pass."""

    layer: int  # L, 0-based
    query_rows: int  # Q, the last positions of the sequence
    visual: slice  # range of the visual tokens
    reduction: str
    row_counts: Tensor | None = None  # int64 [B], real rows of padded queries; None: all Q
    scores: Tensor | None = None  # float32 [B, V], set when the layer is reached


class _LayerReachedError(Exception):
    """Ends the forward pass at the reference layer; `probed_scores` catches it."""


def _probed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, probe: Probe, **kwargs: Any
) -> tuple[Tensor, None]:
    if module.layer_idx != probe.layer:
        if query.shape[2] == key.shape[2] or mask is None:
            return sdpa_attention_forward(module, query, key, value, mask, **kwargs)
        return _attention_to_states(query, key, value, mask, kwargs["scaling"]), None
    if probe.query_rows == 0:  # only keys and values were requested, and the cache has them now
        raise _LayerReachedError
    rows = query[:, :, -probe.query_rows :]
    with torch.autocast(query.device.type, enabled=False):  # scores are float32 under any precision
        probe.scores = visual_attention(
            rows, key, probe.visual, kwargs["scaling"], probe.reduction, row_counts=probe.row_counts
        )
    raise _LayerReachedError


def _attention_to_states(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """Compute the attention of a few query rows to many cached keys: [B, Q, H, d].

    With a mask, transformers' function would copy keys and values for each query head.
    """
    groups = query.shape[1] // key.shape[1]
    rows = query.unflatten(1, (key.shape[1], groups)).flatten(2, 3)  # [B, H_kv, g * Q, d]
    out = scaled_dot_product_attention(rows, key, value, mask.repeat(1, 1, groups, 1), scale=scaling)
    return out.unflatten(2, (groups, query.shape[2])).flatten(1, 2).transpose(1, 2)


def _rows_mask(mask_function: Any = causal_mask_function, **kwargs: Any) -> Tensor | None:
    """Make the mask of the last rows of a sequence, bool [1, 1, Q, N]: the same for all prompts of a batch.

    None of them is padded. transformers' function evaluates a rule for each prompt, row and key.
    """
    rows, keys = kwargs.get("q_length"), kwargs.get("kv_length")
    if mask_function is not causal_mask_function or rows is None or keys is None or rows == keys:
        return sdpa_mask(mask_function=mask_function, **kwargs)
    mask = torch.ones(1, 1, rows, keys, dtype=torch.bool, device=kwargs.get("device"))
    mask[..., keys - rows :].tril_()
    return mask


# A registered attention function without a registered mask function gets no mask at all, silently.
AttentionInterface.register(PROBED, _probed_attention)
AttentionMaskInterface.register(PROBED, _rows_mask)


@contextmanager
def use_attention(decoder: PreTrainedModel, name: str) -> Iterator[None]:
    """Switch a decoder's attention function within a block; it is switched back after errors too."""
    original = decoder.config._attn_implementation
    decoder.config._attn_implementation = name  # `set_attn_implementation` does this too, after searching all modules
    try:
        yield
    finally:
        decoder.config._attn_implementation = original


def probed_scores(
    decoder: PreTrainedModel,
    embeddings: Tensor,
    position_ids: Tensor,
    probe: Probe,
    past: Past | None = None,
    **more: Any,
) -> Tensor:
    """Run a decoder up to the probe's layer and return the scores; gradients flow if they are enabled.

    Scoring always uses PyTorch's SDPA, flash-attention first, not the model's `attn_implementation`.

    Args:
        decoder: the text model, without its head.
        embeddings: [B, N, D]; shorter queries are padded at the end.
        position_ids: [B, N], or [3, B, N] for M-RoPE.
        probe: layer, rows, tokens and reduction.
        past: the states after the tokens before `embeddings`, see `states_before`; None: there are none.
        more: keyword arguments of the decoder, for deepstack.

    Returns:
        float32 [B, V].
    """
    cache = None if past is None else cache_of(past, use_room=True)
    _run_to_layer(decoder, embeddings, position_ids, probe, cache, **more)
    assert probe.scores is not None
    return probe.scores


def states_before(decoder: PreTrainedModel, embeddings: Tensor, position_ids: Tensor, layer: int, **more: Any) -> Past:
    """Compute the states up to a layer for all tokens before the question. They serve every question.

    Args:
        decoder: the text model, without its head.
        embeddings: [B, n, D].
        position_ids: [B, n], or [3, B, n] for M-RoPE.
        layer: the reference layer.
        more: keyword arguments of the decoder, for deepstack.
    """
    cache = empty_cache(decoder.config)
    _run_to_layer(decoder, embeddings, position_ids, Probe(layer, 0, slice(0, 0), "max"), cache, **more)
    return states_in(cache, layer + 1)


def _run_to_layer(
    decoder: PreTrainedModel,
    embeddings: Tensor,
    position_ids: Tensor,
    probe: Probe,
    cache: DynamicCache | None,
    **more: Any,
) -> None:
    cached_length = cache.get_seq_length() if cache is not None else 0
    shape = len(embeddings), cached_length + embeddings.shape[1]
    # Without a mask of ones, transformers silently takes positions with gaps for packed sequences.
    ones = torch.ones(shape, dtype=torch.long, device=embeddings.device)
    with attention_kernels(), use_attention(decoder, PROBED), suppress(_LayerReachedError):
        decoder(
            inputs_embeds=embeddings,
            position_ids=position_ids,
            attention_mask=ones,
            use_cache=cache is not None,
            probe=probe,
            **{cache_keyword(decoder): cache},
            **more,
        )
        raise ValueError(f"reference layer {probe.layer} was never reached: the decoder has no such attention layer")
