"""Time and memory to select among 14k, 28k and 112k visual tokens, compared with a lower bound and a plain version.

    python -m bench.selection        (in `make bench`, without the largest size: --tokens 14080 28160 112640)

The lower bound ("floor") runs only the decoder's layers below the reference layer, over the same frame sets. No method
that scores at that layer can be faster. The plain version follows section 3.2 literally: one set at a time, the whole
score tensor of the reference layer, a loop over the kept tokens. The weights are random, in Qwen2.5-VL's classes.
A second table has the time and the extra memory of selection by the number of frame sets that run together, each way
in a fresh process, the ways in turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

from bench.measure import alone, extra_megabytes, write_result
from bench.probe import whole_tensor
from flexselect.attention import probe
from flexselect.attention.probe import visual_attention
from flexselect.families.qwen2_5_vl import Qwen25VLM
from flexselect.scoring.frame_sets import frame_sets, split_budget
from flexselect.scoring.reference_layer import ReferenceLayerScorer
from flexselect.scoring.selection import select
from flexselect.structures.prompt import EncodedVideo

SIZES = {"hidden_size": 224, "num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 896}
LAYER, BUDGET, ROWS, COLUMNS, UNITS_PER_SET, QUERY, ROUNDS = 4, 7040, 11, 20, 64, 48, 3
VISUAL = 9  # id of the visual tokens' placeholder
TOGETHER = {"one set": 1, "default": None, "up to 32768 tokens": 32768}  # prompt tokens that run in one batch
SCORING: dict[str, list[float]] = {"ours": [], "straightforward": []}  # extra megabytes of each scoring


class Video(SimpleNamespace):
    """A decoder with random weights, an encoded video and a query."""

    lm: Any
    encoded: EncodedVideo
    query: Tensor


def random_video(tokens: int) -> Video:
    """Make a video with this number of visual tokens, a decoder and a query."""
    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    config = Qwen2_5_VLTextConfig(
        **SIZES, num_hidden_layers=LAYER + 1, vocab_size=64, rope_parameters=rope, bos_token_id=0, eos_token_id=1
    )
    config._attn_implementation = "sdpa"
    decoder = Qwen2_5_VLTextModel(config).eval().requires_grad_(False)
    inner = SimpleNamespace(language_model=decoder)
    vision = SimpleNamespace(tokens_per_second=2)
    lm_config = SimpleNamespace(video_token_id=VISUAL, vision_config=vision)
    model = SimpleNamespace(model=inner, config=lm_config, dtype=torch.float32)
    lm = Qwen25VLM(model, None)  # type: ignore[arg-type]
    encoded = EncodedVideo(torch.arange(5), torch.randn(tokens, SIZES["hidden_size"]), (tokens // 220, ROWS, COLUMNS))
    return Video(lm=lm, encoded=encoded, query=torch.arange(QUERY) + 10)


@contextmanager
def below_the_layer(decoder: Any) -> Iterator[None]:
    """Remove the reference layer and the final norm from a decoder for a while."""
    layers, norm = decoder.layers, decoder.norm
    decoder.layers, decoder.norm = layers[:LAYER], nn.Identity()
    try:
        yield
    finally:
        decoder.layers, decoder.norm = layers, norm


def prompts(v: Video, together: int) -> Iterator[tuple[list[Tensor], Tensor, Tensor, Any]]:
    """Yield a few frame sets at a time, with embeddings, positions and layout of their prompts.

    Args:
        v: the video.
        together: number of frame sets per batch.
    """
    sets = frame_sets(v.encoded.num_units, ROWS * COLUMNS, UNITS_PER_SET)
    for first in range(0, len(sets), together):
        batch = sets[first : first + together]
        units = len(batch[0]) // (ROWS * COLUMNS)
        layout = v.encoded.layout(v.query, VISUAL, range(units))
        position_ids = v.lm.position_ids(layout, (units, ROWS, COLUMNS), 1.0)
        embedded = v.lm.embed(layout.ids)[None].repeat(len(batch), 1, 1)
        embedded[:, layout.visual] = torch.stack([v.encoded.features[tokens] for tokens in batch])
        yield batch, embedded, position_ids[:, None].expand(-1, len(batch), -1), layout


@torch.inference_mode()
def floor(v: Video) -> Tensor:
    """Run only the layers below the reference layer, one set at a time as FlexSelect does on a CPU."""
    last = torch.empty(0)
    with below_the_layer(v.lm.decoder):
        for _, embedded, position_ids, _ in prompts(v, 1):
            last = v.lm.decoder(inputs_embeds=embedded, position_ids=position_ids, use_cache=False).last_hidden_state
    return last[0, -1]


@torch.inference_mode()
def select_tokens(v: Video, tokens_per_batch: int | None = None) -> Tensor:
    """Return the indices of the tokens that FlexSelect keeps."""
    sets = frame_sets(v.encoded.num_units, ROWS * COLUMNS, UNITS_PER_SET)
    scorer = ReferenceLayerScorer(v.lm, LAYER, "max", tokens_per_batch)
    (scores,) = scorer.score_many(v.encoded, [v.query], sets)
    return select(scores, sets, split_budget(BUDGET, [len(tokens) for tokens in sets])).kept


def rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply RoPE."""
    first, second = states.chunk(2, dim=-1)
    return states * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]


def measured_attention(*arguments: Any, **options: Any) -> Tensor:
    """Run `visual_attention` and measure its memory."""
    with extra_megabytes(SCORING["ours"]):
        return visual_attention(*arguments, **options)


@torch.inference_mode()
def straightforward(v: Video) -> Tensor:
    """Return the indices of the tokens that the plain version keeps."""
    decoder, chosen = v.lm.decoder, set[int]()
    layer, norm = decoder.layers[LAYER].self_attn, decoder.layers[LAYER].input_layernorm
    width = SIZES["hidden_size"] // SIZES["num_attention_heads"]
    sets = frame_sets(v.encoded.num_units, ROWS * COLUMNS, UNITS_PER_SET)
    shares = split_budget(BUDGET, [len(tokens) for tokens in sets])
    for number, (batch, embedded, position_ids, layout) in enumerate(prompts(v, 1)):
        with below_the_layer(decoder):
            hidden = decoder(inputs_embeds=embedded, position_ids=position_ids, use_cache=False).last_hidden_state
        states = norm(hidden)
        q, k = (project(states).unflatten(-1, (-1, width)).transpose(1, 2) for project in (layer.q_proj, layer.k_proj))
        q, k = (rotated(each, *decoder.rotary_emb(states, position_ids)) for each in (q, k))
        with extra_megabytes(SCORING["straightforward"]):
            scores = whole_tensor(q[:, :, -QUERY:], k, layout.span, width**-0.5)[0]
        for place in scores.topk(shares[number]).indices:
            chosen.add(batch[0][place].item())
    return torch.tensor(sorted(chosen))


WAYS: dict[str, Callable[[Video], Tensor]] = {"floor": floor, "ours": select_tokens, "straightforward": straightforward}


def measured(tokens: int) -> dict[str, Any]:
    """Measure all ways in turn: seconds, and the memory of the scores above decoder and inputs."""
    v = random_video(tokens)
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    kept = {}
    for _ in range(ROUNDS if tokens < 100_000 else 1):
        for name, way in WAYS.items():
            began = time.perf_counter()
            kept[name] = way(v)
            seconds[name].append(time.perf_counter() - began)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    same = len(set(kept["ours"].tolist()) & set(kept["straightforward"].tolist())) / len(kept["ours"])
    scoring = {name: max(each) for name, each in SCORING.items()}
    to_floor = {name: median[name] / median["floor"] for name in SCORING}
    return {"tokens": tokens, "seconds": median, "to_floor": to_floor, "scoring_mb": scoring, "same_kept": same}


def with_batches(tokens: int, tokens_per_batch: int | None) -> tuple[Video, int | None]:
    """Return the arguments of `select_tokens`."""
    return random_video(tokens), tokens_per_batch


def compare_batches(tokens: int) -> list[dict[str, Any]]:
    """Measure selection with one set, the default, and up to 32,768 prompt tokens together; print one row for each."""
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in TOGETHER}
    for _ in range(ROUNDS):
        for name, limit in TOGETHER.items():
            mb, seconds, _ = alone(select_tokens, partial(with_batches, tokens_per_batch=limit), tokens, 220, times=1)
            measured[name].append((mb, seconds))
    print(f"\n{tokens} tokens, {UNITS_PER_SET} units of {ROWS * COLUMNS} tokens in a set; medians of {ROUNDS}")
    rows = []
    for name, pairs in measured.items():
        mb, seconds = (statistics.median(values) for values in zip(*pairs))
        print(f"{name:22}{seconds:8.2f} s{mb:8.0f} MB more", flush=True)
        rows.append({"together": name, "tokens": tokens, "seconds": seconds, "extra_mb": mb})
    return rows


def main() -> None:
    """Print one row per number of tokens, and one per number of sets that run together."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[14080, 28160])
    parser.add_argument("--batches", type=int, default=56320, help="tokens of the second table: 256 units")
    options = parser.parse_args()
    sizes = options.tokens
    probe.visual_attention = measured_attention
    print(f"layer {LAYER}, {SIZES}, {QUERY} query rows, {BUDGET} of the tokens kept; median of {ROUNDS} (112k: one)")
    heads = (
        "floor s",
        "ours s",
        "plain s",
        "ours/floor",
        "plain/floor",
        "floor MB",
        "ours MB",
        "plain MB",
        "same kept",
    )
    print(f"{'tokens':>7}" + "".join(f"{head:>12}" for head in heads))
    rows = []
    for tokens in sizes:
        row = measured(tokens)
        s, mb = row["seconds"], row["scoring_mb"]
        shown = [f"{s[name]:12.2f}" for name in WAYS] + [f"{s[name] / s['floor']:12.3f}" for name in list(WAYS)[1:]]
        shown += [f"{mb[name]:12.1f}" for name in SCORING] + [f"{row['same_kept']:12.4f}"]
        print(f"{tokens:7}" + "".join(shown), flush=True)
        rows.append(row)
    about = {"layer": LAYER, **SIZES, "query_rows": QUERY, "budget": BUDGET}
    write_result("selection", {**about, "batches": compare_batches(options.batches)}, rows)


if __name__ == "__main__":
    main()
