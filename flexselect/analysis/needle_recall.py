"""Which layer finds a needle: recall by layer over many clips, and the layer to use (section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flexselect.analysis.every_layer import Watch, layer_scores, layer_states, recall_at
from flexselect.engine.encoding import encode
from flexselect.evaluation.statistics import wilson
from flexselect.families.base import VideoLM
from flexselect.structures.prompt import VideoPrompt

REDUCTIONS = ("max", "mean")


@dataclass(frozen=True)
class NeedleClip:
    """A clip in which one unit shows what the question asks for."""

    prompt: VideoPrompt
    unit: int


def clip_recalls(lm: VideoLM, clip: NeedleClip) -> Tensor:
    """Recall of the needle's tokens, those of its unit, at every layer: float32 [layers, 2], by max and by mean.

    The clip is scored whole, as one frame set; K is the number of tokens in a unit.
    """
    encoded = encode(lm, clip.prompt)
    layout = encoded.layout(clip.prompt.query_ids, lm.visual_id)
    given = lm.assemble(encoded, clip.prompt.query_ids, None, "original")
    watch = Watch(layout.query_rows, layout.span, REDUCTIONS)
    scores = layer_scores(lm.decoder, given["inputs_embeds"], given["position_ids"], watch, **given["deepstack"])
    needle = torch.arange(encoded.tokens_per_unit) + clip.unit * encoded.tokens_per_unit
    return recall_at(scores[:, :, 0, layout.visual[layout.span].to(scores.device)], needle)


def clip_states(lm: VideoLM, clip: NeedleClip) -> tuple[Tensor, dict[str, Tensor]]:
    """Hidden states of a clip's tokens, other visual ones, text and the needle's; see `layer_states`."""
    encoded = encode(lm, clip.prompt)
    layout = encoded.layout(clip.prompt.query_ids, lm.visual_id)
    needle = layout.visual & (layout.unit == clip.unit)
    groups = {"other": layout.visual & ~needle, "text": ~layout.visual, "needle": needle}
    return layer_states(lm.decoder, lm.assemble(encoded, clip.prompt.query_ids, None, "original"), groups)


def summary(recalls: Tensor, chance: float, draws: int = 2000) -> dict[str, Any]:
    """Recall by layer, and the layer to use.

    Args:
        recalls: float [clips, layers, 2].
        chance: what a random ranking recalls, K / V.
        draws: of clips, for the 95 % bands.

    Returns:
        By reduction the `mean`, `low` and `high` ends of its band, a number a layer; the recommended `reference_layer`
        and `reduction` (the best mean of all, the earlier layer of equals), its `recall`, and the layers that are
        `alike`: by 95 % of draws it is no better than they are.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(recalls), (draws, len(recalls)), generator=generator)
    means = torch.stack([recalls[some].mean(0) for some in drawn])  # [draws, layers, 2]
    low, high = means.quantile(torch.tensor([0.025, 0.975]), dim=0)
    mean = recalls.mean(0)
    for edge in (0.0, 1.0):  # every draw is the same there
        ends, flat = wilson(edge, len(recalls)), (low == high) & (mean == edge)
        low, high = low.masked_fill(flat, ends[0]), high.masked_fill(flat, ends[1])
    layer, reduction = divmod(int((mean - 1e-6 * torch.arange(len(mean))[:, None]).argmax()), len(REDUCTIONS))
    by_reduction = {
        name: {"mean": mean[:, r].tolist(), "low": low[:, r].tolist(), "high": high[:, r].tolist()}
        for r, name in enumerate(REDUCTIONS)
    }
    ahead = (means[:, layer, reduction, None] - means[..., reduction]).quantile(0.025, dim=0)  # on the same clips
    alike = [other for other in range(len(mean)) if other != layer and float(ahead[other]) <= 0]
    best = {"reference_layer": layer, "reduction": REDUCTIONS[reduction], "recall": float(mean[layer, reduction])}
    return {**best, "alike": alike, "chance": chance, "clips": len(recalls), "by_reduction": by_reduction}


def table(found: dict[str, Any]) -> str:
    """Recall by layer in words, the recommended one marked."""
    lines = [f"{'layer':>5} " + " ".join(f"{name:>22}" for name in REDUCTIONS)]
    for layer in range(len(found["by_reduction"]["max"]["mean"])):
        cells: Sequence[str] = [
            f"{of['mean'][layer]:.3f} ({of['low'][layer]:.3f}-{of['high'][layer]:.3f})"
            for of in found["by_reduction"].values()
        ]
        mark = "  <-" if layer == found["reference_layer"] else ""
        lines.append(f"{layer:5} " + " ".join(f"{cell:>22}" for cell in cells) + mark)
    use = f"--model.reference_layer {found['reference_layer']} --model.reduction {found['reduction']}"
    if found["alike"]:
        layers = ", ".join(str(layer) for layer in found["alike"])
        lines.append(f"not told apart from it by {found['clips']} clips: layers {layers}")
    lines.append(f"recall {found['recall']:.3f}, by chance {found['chance']:.3f}; use {use}")
    return "\n".join(lines)
