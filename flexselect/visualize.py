"""Pictures of a selection: where in the video the kept tokens lie, and on what. Needs matplotlib, extra `viz`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from flexselect.prompt import Selection

DIMMED = 0.3  # brightness of what was dropped
COLUMNS = 8


def kept_tokens(
    path: str | Path, frames: Tensor, grid: tuple[int, int, int], selection: Selection, title: str = "", units: int = 16
) -> None:
    """Draw the units with the best scores, kept tokens lit and dropped ones dim, above a timeline of all units.

    Args:
        path: PNG to write.
        frames: uint8 [T, h, w, 3], as encoded; the first frame of each unit is drawn.
        grid: units U, and token rows and columns of a unit.
        selection: scores [V] and kept [K], V = U * rows * columns.
        title: written above, the question and answer for one.
        units: how many units are drawn, in the order of the video.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    lit = lit_tokens(grid, selection)  # [U, rows, columns]
    per_unit = lit.sum((1, 2))
    best = selection.scores.view(grid[0], -1).amax(1).cpu().numpy()
    shown = np.sort(np.argsort(-best, kind="stable")[:units])
    lines = -(-len(shown) // COLUMNS)
    figure = plt.figure(figsize=(COLUMNS * 1.5, lines * 1.7 + 2.6), layout="constrained")
    cells = figure.add_gridspec(lines + 1, COLUMNS, height_ratios=[1.2] * lines + [1.4])
    for i, unit in enumerate(shown):
        axis = figure.add_subplot(cells[i // COLUMNS, i % COLUMNS])
        axis.imshow(light(frames[unit * len(frames) // grid[0]].cpu().numpy(), lit[unit]))
        axis.set_title(f"unit {unit}: score {best[unit]:.2f}", fontsize=7)
        axis.axis("off")
    axis = figure.add_subplot(cells[lines, :])
    axis.bar(range(grid[0]), per_unit, width=1.0, color="0.25")
    axis.set(xlabel="unit (time step)", ylabel="tokens kept", xlim=(-0.5, grid[0] - 0.5))
    twin = axis.twinx()
    twin.plot(best, color="tab:orange", linewidth=0.8)
    twin.set_ylabel("best score", color="tab:orange")
    figure.suptitle(title or f"{len(selection.kept)} of {lit.size} visual tokens kept", fontsize=10)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def recall_by_layer(path: str | Path, found: dict[str, Any]) -> None:
    """Draw what `flexselect.locating.summary` found: recall at every layer with 95 % bands, chance, the layer to use.

    Args:
        path: PNG to write.
        found: the summary.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for (name, of), (colour, line) in zip(found["by_reduction"].items(), (("0.1", "-"), ("tab:orange", "--"))):
        layers = range(len(of["mean"]))
        axis.fill_between(layers, of["low"], of["high"], color=colour, alpha=0.15, linewidth=0)
        axis.plot(layers, of["mean"], line, marker="o", markersize=3, color=colour, label=f"{name} over heads and rows")
    axis.axhline(found["chance"], color="0.5", linewidth=0.8, linestyle=":", label="chance")
    axis.axvline(found["reference_layer"], color="0.7", linewidth=0.8)
    axis.set(xlabel="layer", ylabel="recall@K of the needle's unit", ylim=(0, 1.02))
    axis.set_title(
        f"layer {found['reference_layer']}, {found['reduction']}: {found['recall']:.2f} on {found['clips']} clips"
    )
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def lit_tokens(grid: tuple[int, int, int], selection: Selection) -> np.ndarray:
    """Which tokens are kept, bool [U, rows, columns]."""
    lit = np.zeros(int(np.prod(grid)), dtype=bool)
    lit[selection.kept.cpu().numpy()] = True
    return lit.reshape(grid)


def light(frame: np.ndarray, lit: np.ndarray) -> np.ndarray:
    """A frame uint8 [h, w, 3] with tokens that are not lit [rows, columns] dimmed."""
    height, width = frame.shape[:2]
    rows = np.arange(height) * lit.shape[0] // height
    columns = np.arange(width) * lit.shape[1] // width
    bright = np.where(lit[rows][:, columns, None], 1.0, DIMMED)
    return (frame * bright).astype(np.uint8)
