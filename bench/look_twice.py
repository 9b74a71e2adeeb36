"""Two looks at hours of video, against the full look and against one look at the same cost.

    python -m bench.look_twice                          (1 hour and 8 hours, five seeds: most of an hour)
    python -m bench.look_twice --hours 1 --seeds 1      (minutes)
    python -m bench.look_twice --task hard
    python -m bench.look_twice --hours 1 --ways 2 --shrink 1.5 --area 0.45     (the second look takes regions of frames)

The videos have announced needles: a dot is visible for nine seconds, and the shape that stands in its place for one and
a half. The first look sees every eighth second in frames of one token: dots, but no shapes. Each way has a process of
its own. Shares are of the full look: frames shown, frames decoded (a key frame every eight seconds), pixels that the
tower takes, operations in all.

Other tasks: "first": which of two colours came first. "hard": a dot for six seconds at three frames per second, a shape
for one of its frames (a third of a second), a circle as large as a quarter of its cell, false announcements in the
colours of the shapes. "count": how many shapes have a colour, one to three of six. "unannounced": no dot says where a
shape will be. Their results are in files of their own, look_twice_TASK.json; so are those of other sizes of the looks.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from typing import Any

from bench.measure import write_result
from bench.ways import GROUP, MODEL, MOST_FRAMES, SHRINK, TASKS, Way, ask, at_cost, fewer_frames, line
from flexselect.evaluation.statistics import mcnemar

COST = 0.22
PER_HOUR = 6  # false announcements
SAME_TOKENS = 24  # frames that have as many tokens, 108, as the other ways keep


def ways(num_units: int, shrink: float = SHRINK, area: float = 1.0) -> list[Way]:
    """List the ways that are compared; the first one is the full look."""
    return [
        Way("full look", {"selector": "self", "max_frames": MOST_FRAMES}),
        at_cost(COST, shrink, second_look_area=area),
        fewer_frames("one look", COST, num_units, selector="self"),
        fewer_frames("uniform tokens", COST, num_units, selector="uniform", budget_split="exact"),
        Way("uniform frames", {"selector": None, "max_frames": SAME_TOKENS, "budget_split": "exact"}),
    ]


def measure(hours: float, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Ask about one video per seed in each way."""
    task = TASKS[options.task]
    patches, false = round(1800 * hours * task.fps), round(PER_HOUR * hours)
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as place:
            annotations = task.write(place, patches, options.needles, options.questions, seed, false)
            for way in ways(patches, options.shrink, options.area)[: options.ways]:
                results.setdefault(way.name, []).append(ask(way, annotations, options.model, task.fps))
                print(hours, seed, way.name, results[way.name][-1], file=sys.stderr, flush=True)
    names = list(results)
    rows = [{"hours": hours, **line(name, results[name], results[names[0]])} for name in names]
    right = {name: [value for result in results[name] for value in result["right"]] for name in names}
    for row in rows:
        row["of_full"] = round(row["accuracy"] / rows[0]["accuracy"], 4) if rows[0]["accuracy"] else None
        row["mcnemar_of_two_looks"] = mcnemar(right[names[1]], right[row["way"]])
    return rows


def main() -> None:
    """Print a line per length and way; write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--task", choices=TASKS, default="announced")
    parser.add_argument("--hours", type=float, nargs="+", default=[1, 8])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--ways", type=int, choices=range(2, 6), default=5, help="the first so many")
    parser.add_argument("--shrink", type=float, default=SHRINK, help="first_look_shrink")
    parser.add_argument("--area", type=float, default=1.0, help="second_look_area")
    parser.add_argument("--needles", type=int, default=6)
    parser.add_argument("--questions", type=int, default=12)
    options = parser.parse_args()
    if min(options.hours) <= 0:
        parser.error("--hours must be above 0")
    rows = []
    print(
        f"{'hours':>5} {'way':<20}{'accuracy':>9}{'frames':>8}{'decoded':>8}{'pixels':>8}{'tflop':>7}{'MB':>6}{'p':>9}"
    )
    for hours in options.hours:
        for row in measure(hours, options):
            rows.append(row)
            shares = "".join(f"{row[name]:>8.3f}" for name in ("frames", "decoded", "pixels"))
            print(
                f"{hours:>5g} {row['way']:<20}{row['accuracy']:>9.3f}{shares}{row['tflop']:>7.3f}{row['peak_mb']:>6}"
                f"{row['mcnemar_of_two_looks']:>9.2g}",
                flush=True,
            )
    parts = [] if options.task == "announced" else [options.task]
    parts += [] if options.area == 1 and options.shrink == SHRINK else [f"{options.shrink:g}_{options.area:g}"]
    write_result("_".join(["look_twice", *parts]), {"seeds": options.seeds, "cost": COST, "key_distance": GROUP}, rows)


if __name__ == "__main__":
    main()
