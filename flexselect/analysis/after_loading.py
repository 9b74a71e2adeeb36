"""Check a loaded model: its numbers against transformers' own, its selection against chance, its speed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from flexselect.analysis.every_layer import recall_at
from flexselect.analysis.findings import Findings, State, gigabytes, listed
from flexselect.analysis.needle_recall import NeedleClip
from flexselect.attention.layers import attention_layers
from flexselect.attention.probe import use_attention
from flexselect.engine.clock import Clock
from flexselect.engine.encoding import encode
from flexselect.engine.engine import Engine
from flexselect.evaluation.questions import VideoQuestion
from flexselect.families.base import VideoLM
from flexselect.scoring.reference_layer import ReferenceLayerScorer
from flexselect.scoring.scorer import Scorer
from flexselect.structures.prompt import EncodedVideo, Selection, VideoPrompt

CLOSE = {
    torch.float32: 1e-3,
    torch.bfloat16: 5e-2,
    torch.float16: 2e-2,
}  # of the largest value: rounding, other kernels

TEXT = "The sun rises in the east and sets in the west, and at night people see the moon and the stars."
LARGE = 10**8  # weights of a model that must read English
SHARE = 0.25  # of a clip's tokens that are kept for an answer


def check_values(findings: Findings, name: str, module: torch.nn.Module) -> None:
    """Look at every weight: none may be NaN or infinite, and no matrix may be all zero."""
    bad = [key for key, weight in module.named_parameters() if not bool(torch.isfinite(weight).all())]
    empty = [key for key, weight in module.named_parameters() if weight.dim() > 1 and not bool(weight.any())]
    parts = [
        f"{listed(keys)} {what}" for keys, what in ((bad, "have NaN or infinity"), (empty, "are all zero")) if keys
    ]
    advice = "these files are damaged or unfinished: download them again" if parts else ""
    findings.add(name, "not ok" if parts else "ok", "; ".join(parts) or "all are finite", advice)


def check_numbers(findings: Findings, engine: Engine, prompt: VideoPrompt, layer: int) -> bool:
    """Compare a short clip's logits, and scores at the reference layer, with those of transformers' own code.

    Returns:
        Whether the logits are finite; if not, nothing else was compared.
    """
    lm = engine.lm
    encoded = encode(lm, prompt)
    inputs = lm.assemble(encoded, prompt.query_ids, None, "original")
    dense = lm.next_token_logits(inputs)
    if not bool(torch.isfinite(dense).all()):
        other = "its weights are damaged: download them again"
        advice = other if lm.model.dtype != torch.float16 else f"load it with --model.dtype bfloat16; else {other}"
        findings.add("logits", "not ok", f"NaN or infinite in {lm.model.dtype}", advice)
        return False
    findings.add("logits", "ok", "finite")
    buffers = lm.model.named_buffers()
    rounded = [name for name, buffer in buffers if name.endswith("inv_freq") and buffer.dtype != torch.float32]
    advice = "positions are wrong by several tokens in a long video: please report this output" if rounded else ""
    text = f"{listed(rounded)} are rounded" if rounded else "of positions in float32"
    findings.add("frequencies", "not ok" if rounded else "ok", text, advice)
    reference = lm.logits_from_pixels(prompt)
    if reference is None:
        text = "transformers' own model cannot read this prompt: it has no forward pass for it, or no token for a video"
        findings.add("logits from pixels", "not known", text)
    else:
        _compare(findings, "logits from pixels", "transformers' own forward pass", dense, reference, lm.model.dtype)
    scores, eager = ReferenceLayerScorer(lm, layer).score(encoded, prompt.query_ids), _eager(lm, encoded, prompt, layer)
    _compare(findings, f"scores at layer {layer}", "eager attention", scores, eager, lm.model.dtype)
    everything = torch.arange(encoded.num_tokens)
    kept = lm.assemble(encoded, prompt.query_ids, Selection(scores, everything, [everything]), "original")
    _compare(findings, "all tokens kept", "dense", lm.next_token_logits(kept), dense, lm.model.dtype)
    return True


def check_text(findings: Findings, lm: VideoLM, weights: int) -> None:
    """Measure how well the model predicts plain English: badly, if the tokenizer is of another model.

    A model of `LARGE` weights or more must; a smaller one may be a demo that was trained on something else.
    """
    ids = lm.prompter.ids(TEXT)[None].to(lm.device)
    with torch.inference_mode():
        logits = lm.model(inputs_embeds=lm.embed(ids), use_cache=False).logits[0, :-1].float()
    loss, chance = float(cross_entropy(logits, ids[0, 1:].to(logits.device))), math.log(logits.shape[-1])
    text = f"{loss:.1f} nats per token of an English sentence, {chance:.1f} by chance"
    reads = loss < 0.6 * chance
    advice = "" if reads else "so small a model may never have learned English; else its tokenizer is not its own"
    state: State = "ok" if reads else "not known"
    if not reads and weights >= LARGE:
        state, advice = "not ok", "the tokenizer is of another model, or the weights are damaged or untrained"
    findings.add("reads text", state, text, advice, loss=loss, chance=chance)


def _eager(lm: VideoLM, encoded: EncodedVideo, prompt: VideoPrompt, layer: int) -> Tensor:
    """Return the scores from the attention matrix of transformers' eager attention: float32 [V]."""
    layout = encoded.layout(prompt.query_ids, lm.visual_id)
    inputs = lm.assemble(encoded, prompt.query_ids, None, "original")
    positions = lm.position_ids(layout, encoded.grid, 1.0).to(lm.device)  # as a frame set has them
    names = {"inputs_embeds": inputs["inputs_embeds"], "attention_mask": inputs["attention_mask"]}
    names["position_ids"] = positions[:, None] if len(positions) > 1 else positions
    with torch.inference_mode(), use_attention(lm.decoder, "eager"):
        out = lm.decoder(**names, **inputs["deepstack"], use_cache=False, output_attentions=True)
    place = attention_layers(lm.decoder.config).index(layer)  # recurrent layers have no matrix
    attention = out.attentions[place][0, :, -layout.query_rows :].float()  # [H, Q, N]
    return attention.amax((0, 1))[layout.visual.nonzero().flatten().to(attention.device)]


def _compare(findings: Findings, name: str, other: str, one: Tensor, two: Tensor, dtype: torch.dtype) -> None:
    """Add a finding: how far two results are apart, as a share of the larger's largest value."""
    two = two.to(one.device)
    apart = float((one - two).abs().max() / two.abs().max().clamp_min(1e-9))
    state: State = "ok" if apart <= CLOSE[dtype] else "not ok"
    advice = "" if state == "ok" else "something differs from the published model: please report this output"
    findings.add(name, state, f"{apart:.1e} of the largest value from {other}", advice, apart=apart)


def check_needles(findings: Findings, engine: Engine, clips: Sequence[NeedleClip], scorers: dict[str, Scorer]) -> None:
    """Measure the recall of rendered needles by each scorer, and the answers from their tokens against dense.

    Args:
        findings: gets two findings.
        engine: the loaded model.
        clips: clips with a needle each.
        scorers: scorers that rank content, by the name of their mode.
    """
    recalls = {
        name: statistics.mean(_recall(engine, scorer, clip) for clip in clips) for name, scorer in scorers.items()
    }
    judge_recalls(findings, recalls, clips)
    modes = {"dense": engine.with_scorer(None), **{name: engine.with_scorer(scorers[name]) for name in scorers}}
    right = {name: _right(mode, clips) for name, mode in modes.items()}
    text = ", ".join(f"{name} {count} of {len(clips)}" for name, count in right.items())
    text += f", from {SHARE:.0%} of the tokens but for dense"
    enough = right["dense"] > 0 and min(right.values()) >= right["dense"] / 2
    advice = "" if enough else "look at `needles`: what is not found cannot be answered"
    if not right["dense"]:
        advice = "this model does not know such questions, or does not see; nothing follows for selecting"
    findings.add("answers about needles", "ok" if enough else "not known", text, advice, right=right)


def judge_recalls(findings: Findings, recalls: dict[str, float], clips: Sequence[NeedleClip]) -> None:
    """Add a finding: whether each scorer finds needles far above chance, and none much worse than another.

    Args:
        findings: gets the finding.
        recalls: recall by the name of the mode.
        clips: the clips.
    """
    chance = 1 / clips[0].prompt.clip.num_units
    better = min(recalls.values()) > 2 * chance
    advice = "" if better else "a model that never learned to see finds nothing; else try `locate`, for the best layer"
    if better and min(recalls.values()) < max(recalls.values()) / 2:
        better, advice = False, "one finds less than half of what the other does: was the selector trained for this?"
    text = ", ".join(f"{name} {recall:.2f}" for name, recall in recalls.items())
    text += f" of the tokens of {len(clips)} needles, each among {clips[0].others} others; {chance:.2f} by chance"
    findings.add("needles", "ok" if better else "not known", text, advice, recall=recalls, chance=chance)


def _recall(engine: Engine, scorer: Scorer, clip: NeedleClip) -> float:
    """Return which share of the needle's tokens are among the highest scores, as many as a unit has."""
    encoded = engine.with_scorer(scorer).encode(clip.prompt)
    first = clip.unit * encoded.tokens_per_unit + scorer.shift(encoded)
    needle = torch.arange(first, min(first + encoded.tokens_per_unit, encoded.num_tokens))
    return float(recall_at(scorer.score(encoded, clip.prompt.query_ids), needle))


def _right(engine: Engine, clips: Sequence[NeedleClip]) -> int:
    """Count right answers, from a share of the tokens if the engine selects."""
    right = 0
    for clip in clips:
        encoded = engine.encode(clip.prompt)
        budget = max(1, int(encoded.num_tokens * SHARE)) if engine.scorer is not None else None
        (answer,) = engine.answer(engine.requests(encoded, [clip.question], budget=budget), 8)
        right += VideoQuestion("", "", clip.question, answer=clip.answer).is_right(answer.text)
    return right


def check_speed(findings: Findings, engine: Engine, prompt: VideoPrompt, rounds: int = 3) -> None:
    """Measure the seconds of each stage, first and later, the peak of GPU memory, and which attention kernels ran."""
    frames = prompt.clip.num_units * engine.family.frames_per_unit
    runs = [first_token(engine, prompt) for _ in range(rounds + 1)]
    with KernelsUsed() as used:  # apart: it takes time
        first_token(engine, prompt)
    first, later = runs[0].seconds, {}
    for stage in first:
        later[stage] = statistics.median(run.seconds[stage] for run in runs[1:])
    text = ", ".join(f"{stage} {first[stage]:.3f} s, later {later[stage]:.3f} s" for stage in later)
    peaks = runs[0].peaks
    if peaks:
        text += "; peak " + ", ".join(f"{stage} {gigabytes(peak)}" for stage, peak in peaks.items())
    findings.add(f"a question about {frames} frames", "ok", text, first=first, later=later, peaks=peaks)
    text = ", ".join(f"{name} {count} times" for name, count in used.counts.items())
    findings.add(f"attention of {frames} frames", "ok", text or "no call of PyTorch's attention", **used.counts)


@dataclass(frozen=True)
class FirstToken:
    """Seconds and memory of a question until the logits of its first token, by stage."""

    seconds: dict[str, float]
    peaks: dict[str, int]  # bytes on the fullest GPU; empty on a CPU


def first_token(engine: Engine, prompt: VideoPrompt) -> FirstToken:
    """Compute the first token's logits, and measure each stage."""
    clock, selection, peaks = Clock(engine.gpus), None, {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        for gpu in engine.gpus:
            torch.cuda.reset_peak_memory_stats(gpu)
        with clock(name):
            yield
        if engine.gpus:
            peaks[name] = max(torch.cuda.max_memory_allocated(gpu) for gpu in engine.gpus)

    with stage("encode"):
        encoded = engine.encode(prompt)
    with stage("score"):
        if engine.scorer is not None:
            (selection,) = engine.select_encoded(encoded, [prompt.query_ids])
    with stage("prefill"):
        engine.lm.next_token_logits(engine.lm.assemble(encoded, prompt.query_ids, selection, engine.positions))
    return FirstToken(clock.timings, peaks)


class KernelsUsed(TorchDispatchMode):
    """Counts calls of attention kernels by name, within a `with` block."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count a call of an attention kernel; run the operation."""
        if function is torch.ops.aten.scaled_dot_product_attention.default:
            with self:  # which kernel it calls
                return function.decompose(*args, **(kwargs or {}))
        name = str(function._schema.name).removeprefix("aten::")
        if "attention" in name and "backward" not in name:
            short = name.removeprefix("_scaled_dot_product_").removeprefix("_")
            self.counts[short] = self.counts.get(short, 0) + 1
        return function(*args, **(kwargs or {}))
