"""Accuracy over cost, in every way to ask: all tokens, fewer frames, controls, selection, two looks.

    python -m bench.cost                    (videos of 17 minutes, three seeds: a quarter of an hour)
    python -m bench.cost --minutes 60

The videos are those of `bench.look_twice`. A way's cost is the share of the full look's frames that it takes; the table
has what that comes to: operations, frames decoded, pixels, as shares of the full look with selection. The front are the
rows that no other row beats in accuracy at as few operations.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.measure import RESULTS, write_result
from bench.ways import GROUP, MODEL, MOST_FRAMES, SELECTOR, TASKS, Way, ask, at_cost, fewer_frames, line

SHARES = (0.1, 0.22, 0.5)  # of the frames, also the costs of two looks
ONE_LOOK = {"training-free": "self", "uniform": "uniform", "random": "random"}
DENSE = (0.01, 0.05)  # more would take hours: attention is quadratic
PICTURE, TICKS = "cost.png", (0.02, 0.05, 0.1, 0.2, 0.5, 1)


def ways(num_units: int, selector: str | None) -> list[Way]:
    """List all ways; the first one is the full look with training-free selection."""
    listed = [Way("training-free 1", {"selector": "self", "max_frames": MOST_FRAMES})]
    listed += [fewer_frames("dense", share, num_units, selector=None, budget_split="exact") for share in DENSE]
    one_look = {**ONE_LOOK, **({} if selector is None else {"lite": selector})}
    for name, mode in one_look.items():
        split = {} if name in ("training-free", "lite") else {"budget_split": "exact"}
        listed += [fewer_frames(name, share, num_units, selector=mode, **split) for share in SHARES]
    listed += [at_cost(share) for share in SHARES]
    if selector is not None:
        listed += [at_cost(share, name="two looks, lite", selector=selector) for share in SHARES]
    return listed


def front(rows: Sequence[dict[str, Any]]) -> list[bool]:
    """Return which rows no other row beats: none has more right answers at as few operations, or as many at fewer."""
    return [
        not any(
            other["accuracy"] >= row["accuracy"]
            and other["tflop"] <= row["tflop"]
            and (other["accuracy"] > row["accuracy"] or other["tflop"] < row["tflop"])
            for other in rows
        )
        for row in rows
    ]


def draw(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw accuracy over operations, one line per kind of way; a ring marks the front."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for kind in dict.fromkeys(row["way"].rpartition(" ")[0] for row in rows):
        of_kind = sorted((row for row in rows if row["way"].rpartition(" ")[0] == kind), key=lambda row: row["tflop"])
        axes.plot([row["tflop"] for row in of_kind], [row["accuracy"] for row in of_kind], "o-", label=kind)
    best = [row for row in rows if row["front"]]
    axes.plot([row["tflop"] for row in best], [row["accuracy"] for row in best], "ko", mfc="none", ms=12, label="front")
    axes.set(xscale="log", xlabel="operations, as a share of the full look", ylabel="accuracy", ylim=(-0.03, 1.03))
    axes.set_xticks(TICKS, map(str, TICKS))  # as numbers: powers of ten need fonts that are not everywhere
    axes.minorticks_off()
    axes.legend(fontsize="small")
    figure.savefig(file, dpi=110)


def main() -> None:
    """Print a line per way; write them as JSON and as a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--selector", default=SELECTOR, help="a trained selector of the model, for lite rows")
    parser.add_argument("--minutes", type=float, default=17)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    patches = round(60 * options.minutes)
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as place:
            annotations = TASKS["announced"].write(place, patches, 6, 12, seed, false=6)
            for way in ways(patches, options.selector):
                results.setdefault(way.name, []).append(ask(way, annotations, options.model))
                print(seed, way.name, f"{results[way.name][-1]['seconds']:.0f} s", file=sys.stderr, flush=True)
    names = list(results)
    rows = [line(name, results[name], results[names[0]]) for name in names]
    rows = [{**row, "front": on_front} for row, on_front in zip(rows, front(rows))]
    print(f"{'way':<20}{'accuracy':>9}{'tflop':>9}{'frames':>8}{'decoded':>8}{'pixels':>8}{'kept':>7}")
    for row in sorted(rows, key=lambda row: row["tflop"]):
        shares = "".join(f"{row[name]:>8.3f}" for name in ("frames", "decoded", "pixels"))
        mark = "  front" if row["front"] else ""
        print(f"{row['way']:<20}{row['accuracy']:>9.3f}{row['tflop']:>9.4f}{shares}{row['kept']:>7.0f}{mark}")
    write_result("cost", {"minutes": options.minutes, "seeds": options.seeds, "key_distance": GROUP}, rows)
    draw(rows, RESULTS / PICTURE)


if __name__ == "__main__":
    main()
