"""Find the layer that recalls needles best, over many clips (section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flexselect.analysis.every_layer import EveryLayerProbe, layer_scores, layer_states, recall_at
from flexselect.engine.encoding import encode
from flexselect.evaluation.statistics import wilson
from flexselect.families.base import VideoLM
from flexselect.structures.prompt import VideoPrompt

REDUCTIONS = ("max", "mean")


@dataclass(frozen=True)
class NeedleClip:
    """A clip in which one unit, the needle, shows what the question asks for."""

    prompt: VideoPrompt
    unit: int
    question: str = ""
    answer: str = ""  # the word that answers the question; empty: not known
    others: int = 0  # number of other needles in the clip


def measure_layers(lm: VideoLM, clip: NeedleClip) -> Tensor:
    """Measure how well every layer with attention finds a clip's needle: float32 [2, layers, 2], for max and mean.

    The first row is the recall of the needle's tokens, where K is the number of tokens per unit; the second one is 1
    where the best token of all is one of the needle's (pointing). The clip is scored as one frame set.
    """
    encoded = encode(lm, clip.prompt)
    layout = encoded.layout(clip.prompt.query_ids, lm.visual_id)
    assembled = lm.assemble(encoded, clip.prompt.query_ids, None, "original")
    probe = EveryLayerProbe(layout.query_rows, layout.span, REDUCTIONS)
    scores = layer_scores(
        lm.decoder, assembled["inputs_embeds"], assembled["position_ids"], probe, **assembled["deepstack"]
    )
    needle = torch.arange(encoded.tokens_per_unit) + clip.unit * encoded.tokens_per_unit
    scores = scores[:, :, 0, layout.visual[layout.span].to(scores.device)]  # [layers, 2, V]
    pointing = scores.argmax(-1) // encoded.tokens_per_unit == clip.unit
    return torch.stack([recall_at(scores, needle), pointing.float()])


def clip_states(lm: VideoLM, clip: NeedleClip) -> tuple[Tensor, dict[str, Tensor]]:
    """Return hidden states of a clip's needle tokens, other visual tokens and text; see `layer_states`."""
    encoded = encode(lm, clip.prompt)
    layout = encoded.layout(clip.prompt.query_ids, lm.visual_id)
    needle = layout.visual & (layout.unit == clip.unit)
    groups = {"other": layout.visual & ~needle, "text": ~layout.visual, "needle": needle}
    return layer_states(lm.decoder, lm.assemble(encoded, clip.prompt.query_ids, None, "original"), groups)


def summarise_layers(
    measures: Tensor, chance: float, layers: Sequence[int] | None = None, draws: int = 2000
) -> dict[str, Any]:
    """Summarise recall and pointing by layer, and recommend a layer.

    Args:
        measures: float [clips, 2, layers, 2], see `measure_layers`.
        chance: recall and pointing of a random ranking: one over the number of units.
        layers: numbers of the layers that were measured, 0-based; None: all of them.
        draws: bootstrap draws for the 95 % intervals.

    Returns:
        `layers`. `by_reduction`: for each reduction, the `mean` recall, the ends `low` and `high` of its interval, and
        `pointing`, the share of clips whose best token is one of the needle's; all listed by layer. The recommended
        `reference_layer` and `reduction` have the best mean recall; the earlier of equal layers wins. `recall` and
        `pointing` are that layer's. `alike`: the layers that are not worse by the 95 % interval of the paired
        difference.
    """
    recalls, pointing = measures[:, 0], measures[:, 1].mean(0)
    layers = list(range(recalls.shape[1])) if layers is None else list(layers)
    generator = torch.Generator().manual_seed(0)
    samples = torch.randint(len(recalls), (draws, len(recalls)), generator=generator)
    means = torch.stack([recalls[sample].mean(0) for sample in samples])  # [draws, layers, 2]
    low, high = means.quantile(torch.tensor([0.025, 0.975]), dim=0)
    mean = recalls.mean(0)
    for edge in (0.0, 1.0):  # the bootstrap intervals of 0 and 1 have no width
        ends, flat = wilson(edge, len(recalls)), (low == high) & (mean == edge)
        low, high = low.masked_fill(flat, ends[0]), high.masked_fill(flat, ends[1])
    layer, reduction = divmod(int((mean - 1e-6 * torch.arange(len(mean))[:, None]).argmax()), len(REDUCTIONS))
    by_layer = {"mean": mean, "low": low, "high": high, "pointing": pointing}
    by_reduction = {
        name: {part: values[:, r].tolist() for part, values in by_layer.items()} for r, name in enumerate(REDUCTIONS)
    }
    lead = means[:, layer, reduction, None] - means[..., reduction]  # [draws, layers], paired: on the same clips
    least = lead.quantile(0.025, dim=0).tolist()
    not_worse = [layers[other] for other in range(len(layers)) if other != layer and least[other] <= 0]
    measured = {"recall": float(mean[layer, reduction]), "pointing": float(pointing[layer, reduction])}
    best = {"reference_layer": layers[layer], "reduction": REDUCTIONS[reduction], **measured}
    seen = {"chance": chance, "clips": len(recalls), "layers": layers}
    return {**best, "alike": not_worse, **seen, "by_reduction": by_reduction}


def format_layers(result: dict[str, Any]) -> str:
    """Format recall and pointing by layer as text; an arrow marks the recommended layer."""
    lines = [f"{'layer':>5} " + " ".join(f"{f'recall, {name}':>22}{'pointing':>10}" for name in REDUCTIONS)]
    for row, layer in enumerate(result["layers"]):
        cells: Sequence[str] = [
            f"{curve['mean'][row]:9.3f} ({curve['low'][row]:.3f}-{curve['high'][row]:.3f}){curve['pointing'][row]:9.3f}"
            for curve in result["by_reduction"].values()
        ]
        mark = "  <-" if layer == result["reference_layer"] else ""
        lines.append(f"{layer:5} " + " ".join(f"{cell:>32}" for cell in cells) + mark)
    use = f"--model.reference_layer {result['reference_layer']} --model.reduction {result['reduction']}"
    if result["alike"]:
        layers = ", ".join(str(layer) for layer in result["alike"])
        lines.append(f"not significantly worse on {result['clips']} clips: layers {layers}")
    measured = f"recall {result['recall']:.3f}, pointing {result['pointing']:.3f}, by chance {result['chance']:.3f}"
    lines.append(f"{measured}; use {use}")
    return "\n".join(lines)
