"""Check a loaded model: its numbers against transformers' own, its selection against chance, its speed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

from flexselect.analysis.findings import Findings, State, gigabytes
from flexselect.analysis.needle_recall import NeedleClip, clip_recalls
from flexselect.attention import use_attention
from flexselect.engine.clock import Clock
from flexselect.engine.encoding import encode
from flexselect.engine.engine import Engine
from flexselect.evaluation.questions import VideoQuestion
from flexselect.scoring.reference_layer import ReferenceLayerScorer
from flexselect.structures.prompt import EncodedVideo, Selection, VideoPrompt

CLOSE = {
    torch.float32: 1e-3,
    torch.bfloat16: 5e-2,
    torch.float16: 2e-2,
}  # of the largest value: rounding, other kernels


def check_numbers(findings: Findings, engine: Engine, prompt: VideoPrompt) -> None:
    """Compare a short clip's logits and scores with those of transformers' own code."""
    lm = engine.lm
    encoded = encode(lm, prompt)
    inputs = lm.assemble(encoded, prompt.query_ids, None, "original")
    dense = lm.next_token_logits(inputs)
    state: State = "ok" if bool(torch.isfinite(dense).all()) else "not ok"
    findings.add("logits", state, "finite" if state == "ok" else "NaN or infinite", "" if state == "ok" else _FINITE)
    reference = lm.logits_from_pixels(prompt)
    if reference is None:
        findings.add("logits from pixels", "not known", "transformers has no forward pass for this family's prompt")
    else:
        _compare(findings, "logits from pixels", "transformers' own forward pass", dense, reference, lm.model.dtype)
    layer = engine.family.default_reference_layer
    scorer = ReferenceLayerScorer(lm, layer)
    scores, eager = scorer.score(encoded, prompt.query_ids), _eager(engine, encoded, prompt, layer)
    _compare(findings, f"scores at layer {layer}", "eager attention", scores, eager, lm.model.dtype)
    everything = torch.arange(encoded.num_tokens)
    kept = lm.assemble(encoded, prompt.query_ids, Selection(scores, everything, [everything]), "original")
    _compare(findings, "all tokens kept", "dense", lm.next_token_logits(kept), dense, lm.model.dtype)


_FINITE = "load the model in bfloat16 or float32, and check its weights"


def _eager(engine: Engine, encoded: EncodedVideo, prompt: VideoPrompt, layer: int) -> Tensor:
    """Return the scores from the attention matrix of transformers' eager attention: float32 [V]."""
    lm, layout = engine.lm, encoded.layout(prompt.query_ids, engine.lm.visual_id)
    inputs = lm.assemble(encoded, prompt.query_ids, None, "original")
    positions = lm.position_ids(layout, encoded.grid, 1.0).to(lm.device)  # as a frame set has them
    names = {"inputs_embeds": inputs["inputs_embeds"], "attention_mask": inputs["attention_mask"]}
    names["position_ids"] = positions[:, None] if len(positions) > 1 else positions
    with torch.inference_mode(), use_attention(lm.decoder, "eager"):
        out = lm.decoder(**names, **inputs["deepstack"], use_cache=False, output_attentions=True)
    attention = out.attentions[layer][0, :, -layout.query_rows :].float()  # [H, Q, N]
    return attention.amax((0, 1))[layout.visual.nonzero().flatten().to(attention.device)]


def _compare(findings: Findings, name: str, other: str, one: Tensor, two: Tensor, dtype: torch.dtype) -> None:
    """Add a finding: how far two results are apart, as a share of the larger's largest value."""
    two = two.to(one.device)
    apart = float((one - two).abs().max() / two.abs().max().clamp_min(1e-9))
    state: State = "ok" if apart <= CLOSE[dtype] else "not ok"
    advice = "" if state == "ok" else "something differs from the published model: please report this output"
    findings.add(name, state, f"{apart:.1e} of the largest value from {other}", advice, apart=apart)


def check_needles(findings: Findings, engine: Engine, clips: Sequence[NeedleClip], lite: Engine | None) -> None:
    """Measure the recall of rendered needles at the reference layer, and answers dense, training-free and lite."""
    layer, units = engine.family.default_reference_layer, clips[0].prompt.clip.num_units
    recall = statistics.mean(float(clip_recalls(engine.lm, clip)[layer, 0]) for clip in clips)
    better = recall > 2 / units
    state: State = "ok" if better else "not known"
    advice = "" if better else "a model that never learned to see finds nothing; else try `locate`, for the best layer"
    text = f"{recall:.2f} of {len(clips)} needles' tokens at layer {layer}, {1 / units:.2f} by chance"
    findings.add("needles", state, text, advice, recall=recall, chance=1 / units)
    scorer = ReferenceLayerScorer(engine.lm, layer)
    modes = {"dense": engine.with_scorer(None), "training-free": engine.with_scorer(scorer)}
    right = {name: _right(mode, clips) for name, mode in {**modes, **({"lite": lite} if lite else {})}.items()}
    text = ", ".join(f"{name} {count} of {len(clips)}" for name, count in right.items())
    findings.add("answers about needles", "ok" if max(right.values()) else "not known", text, right=right)


def _right(engine: Engine, clips: Sequence[NeedleClip]) -> int:
    """Count right answers, from a quarter of the tokens if the engine selects."""
    count = 0
    for clip in clips:
        encoded = engine.encode(clip.prompt)
        budget = max(1, encoded.num_tokens // 4) if engine.scorer is not None else None
        (answer,) = engine.answer(engine.requests(encoded, [clip.question], budget=budget), 8)
        count += VideoQuestion("", "", clip.question, answer=clip.answer).is_right(answer.text)
    return count


def check_speed(findings: Findings, engine: Engine, prompt: VideoPrompt, rounds: int = 3) -> None:
    """Measure the seconds of each stage, first and later, and the peak of GPU memory."""
    times = [first_token(engine, prompt) for _ in range(rounds + 1)]
    later = {stage: statistics.median(spent[stage] for spent in times[1:]) for stage in times[0]}
    text = ", ".join(f"{stage} {times[0][stage]:.3f} s, later {later[stage]:.3f} s" for stage in later)
    peak = max((torch.cuda.max_memory_allocated(gpu) for gpu in engine.gpus), default=0)
    text += f"; peak {gigabytes(peak)}" if peak else ""
    name = f"a question about {prompt.clip.num_units * engine.family.frames_per_unit} frames"
    findings.add(name, "ok", text, first=times[0], later=later, peak=peak)


def first_token(engine: Engine, prompt: VideoPrompt) -> dict[str, float]:
    """Compute the first token's logits; return the seconds of each stage."""
    clock, selection = Clock(engine.gpus), None
    with clock("encode"):
        encoded = engine.encode(prompt)
    with clock("score"):
        if engine.scorer is not None:
            (selection,) = engine.select_encoded(encoded, [prompt.query_ids])
    with clock("prefill"):
        engine.lm.next_token_logits(engine.lm.assemble(encoded, prompt.query_ids, selection, engine.positions))
    return clock.timings
