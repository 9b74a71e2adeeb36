"""Plots over layers: recall of needles, and hidden states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flexselect.visualize.style import DARK, PALE, WARM, drawing

if TYPE_CHECKING:
    from flexselect.visualize.picture import Picture

COLUMNS = 4
MARKS = ((PALE, ".", 2.0), (DARK, "+", 4.0), (WARM, "o", 3.0))  # colour, shape, size: they differ in greyscale too


def recall_by_layer(summary: dict[str, Any]) -> Picture:
    """Draw recall at every layer with 95 % intervals, pointing, chance, and the recommended layer.

    Args:
        summary: the result of `needle_recall.summarise_layers`.
    """
    from matplotlib.ticker import MaxNLocator

    best = f"layer {summary['reference_layer']}, {summary['reduction']}: {summary['recall']:.2f}"
    with drawing(7, 3.6, f"{best} on {summary['clips']} clips") as figure:
        axis = figure.add_subplot()
        for (name, curve), (colour, line) in zip(summary["by_reduction"].items(), ((DARK, "-"), (WARM, "--"))):
            layers = summary["layers"]
            axis.fill_between(layers, curve["low"], curve["high"], color=colour, alpha=0.15, linewidth=0)
            label = f"{name} over heads, rows"
            axis.plot(layers, curve["mean"], line, marker="o", markersize=3, color=colour, label=label)
            axis.plot(layers, curve["pointing"], "x", markersize=5, color=colour, label=f"pointing, {name}")
        axis.axhline(summary["chance"], color=PALE, linewidth=0.8, linestyle=":", label="chance")
        axis.axvline(summary["reference_layer"], color=PALE, linewidth=0.8, label="recommended")
        axis.set(xlabel="layer", ylabel="recall@K of the needle's unit, pointing", ylim=(0, 1.02))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend()
    return figure


def states_by_layer(states: Tensor, groups: Mapping[str, Tensor], title: str = "") -> Picture:
    """Draw hidden states by their two principal components, one panel per layer and one colour per group of tokens.

    Args:
        states: float [layers + 1, n, D], embeddings first, see `every_layer.layer_states`; at most 8 layers are drawn,
            evenly spread, with the first and the last.
        groups: indices of tokens by name of the group, int64 [*] each; at most three, the most important one last.
        title: title of the picture.
    """
    shown = torch.linspace(0, len(states) - 1, min(8, len(states))).round().long().tolist()
    lines = -(-len(shown) // COLUMNS)
    with drawing(9, 2.3 * lines + 0.5, title) as figure:
        for place, layer in enumerate(shown):
            axis = figure.add_subplot(lines, min(COLUMNS, len(shown)), place + 1)
            flat, share = principal_components(states[layer])
            for (group, places), (colour, mark, size) in zip(groups.items(), MARKS):
                axis.plot(*flat[places].T.numpy(), mark, color=colour, markersize=size, label=group, alpha=0.8)
            name = f"layer {layer - 1}" if layer else "embeddings"
            axis.set(title=f"{name}: {share:.0%} of variance", xticks=[], yticks=[])
            axis.set(xlabel="first component" if place >= len(shown) - COLUMNS else "")
            axis.set(ylabel="second component" if place % COLUMNS == 0 else "")
        figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=len(groups), markerscale=2)
    return figure


def principal_components(states: Tensor) -> tuple[Tensor, float]:
    """Return the two principal components of states [n, D], float [n, 2], and their share of the variance."""
    centred = states - states.mean(0)
    _, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
    variance = sizes.square()
    return centred @ axes[:2].T, float(variance[:2].sum() / variance.sum().clamp(min=1e-30))
