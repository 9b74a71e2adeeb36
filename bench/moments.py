"""Moments of the demo's needles: raw, proven, placed without looking; deletions; absent shapes; the cost of the proof.

    python -m bench.moments --seeds 11 21 41 51           (a quarter of an hour on two cores)
    python -m bench.moments --patches 1024 --videos 3 --seeds 31 32 33 --positions compact

The demo's model never saw positions above 600, so it needs compact ones for longer videos.
Each video has four shapes, each visible for 1.5 seconds. Questions with options are left out where absence is measured.
Each seed has a row of its own, and all of them together have one.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

from transformers.utils.logging import disable_progress_bar

from bench.measure import write_result
from datamodules.needles import ask_about_all, write_needle_videos
from flexselect import FlexSelect
from flexselect.evaluation.absence import summarise_absence
from flexselect.evaluation.grounding import ground
from flexselect.storage.json_lines import read_json_lines

MODEL = "checkpoints/demo/video_llm"
WAYS = ("raw", "proven", "random", "uniform")  # the last two: as long as the proven one, placed without looking
RANDOM = random.Random(0)
SCORERS = {"training-free": "self", "lite": "checkpoints/demo/selector"}


def asked_about(session: Any, row: dict, length: float) -> dict[str, Any]:
    """Ask one question with and without proof; return what the table counts."""
    options = {"max_new_tokens": 4, "options": row["options"] or ()}
    raw, proven = (session.ask(row["question"], verify=verify, **options) for verify in (False, True))
    truth, whole = [tuple(moment) for moment in row["moments"]], (0.0, length)
    grounds = [ground([moment.to_dict() for moment in answer.moments], truth, whole) for answer in (raw, proven)]
    right = row["answer"] == (raw.option.letter if raw.option else raw.text)
    controls = [ground([place], truth, whole) for place in elsewhere(proven.moments[0].to_dict(), length)]
    named = dict(zip(WAYS, grounds + controls))
    return {**named, "right": right, "proof": proven.verification, "answer": proven}


def elsewhere(moment: dict[str, Any], length: float) -> list[dict[str, Any]]:
    """Place a moment of the same length at random, and in the middle of the video."""
    size = moment["end"] - moment["start"]
    starts = RANDOM.uniform(0, length - size), (length - size) / 2
    return [{"start": start, "end": start + size, "peak": start + size / 2} for start in starts]


def ask(fs: FlexSelect, rows: list[dict], folder: Path, length: float) -> tuple[list[dict], list[dict], list[dict]]:
    """Ask about all videos of a folder; return results, and the presence of all shapes and colours, raw and proven."""
    results, absence = [], tuple[list[dict], list[dict]]([[], []])
    for name in sorted({row["video"] for row in rows}):
        session = fs.open(folder / name, keep="scores_kv", progress=False)
        results += [asked_about(session, row, length) for row in rows if row["video"] == name]
        shown = [row["needle"] for row in rows if row["video"] == name]
        asked = ask_about_all((needle["shape"] for needle in shown), (needle["colour"] for needle in shown))
        for verify, values in zip((False, True), absence):
            answers = session.ask_all([question for question, _ in asked], 4, verify=verify)
            values += [{"presence": a.presence, "absent": not there} for a, (_, there) in zip(answers, asked)]
    return results, *absence


def summarise(results: list[dict], raw: list[dict], proven: list[dict]) -> dict[str, Any]:
    """Summarise what `ask` returned, of one seed or of several."""
    right = [result for result in results if result["right"]]
    absence = {"raw": summarise_absence(raw), "proven": summarise_absence(proven)}

    def mean(values: Any) -> float:
        return round(statistics.mean(map(float, values)), 4)

    timings = [result["answer"].timings for result in results]
    changed = [result["proof"].changed for result in right]
    by_chance = [result["proof"].changed_without_others for result in right]
    return {
        "questions": len(results),
        "right": len(right),
        **{f"{way}_iou_half": mean(result[way]["iou"] >= 0.5 for result in results) for way in WAYS},
        **{f"{way}_pointing": mean(result[way]["pointing"] for result in results) for way in WAYS},
        "chance_iou": mean(result["proven"]["chance_iou"] for result in results),
        "changed": mean(changed),
        "changed_of_right": f"{sum(changed)} of {len(changed)}",
        "changed_by_chance": mean(value for value in by_chance if value is not None),  # None: there are no others
        **{f"{way}_auroc": found["auroc"] for way, found in absence.items() if found},
        **{f"{way}_found_at_5_percent": found["proposed"]["found"] for way, found in absence.items() if found},
        "verify_over_prefill": round(
            statistics.median(t["verify"] for t in timings) / statistics.median(t["prefill"] for t in timings), 2
        ),
    }


def measure(seed: int, options: argparse.Namespace) -> dict[str, tuple[list[dict], list[dict], list[dict]]]:
    """Ask about the videos of one seed with each scorer."""
    asked = {}
    with tempfile.TemporaryDirectory() as place:
        rows, _ = read_json_lines(write_needle_videos(Path(place), options.videos, options.patches, seed=seed))
        for mode, selector in SCORERS.items():
            how = {"max_frames": 2 * options.patches, "positions": options.positions}  # every frame: a unit is a second
            fs = FlexSelect.from_pretrained(MODEL, selector=selector, dtype="float32", device="cpu", **how)
            asked[mode] = ask(fs, rows, Path(place), float(options.patches))
    return asked


def main() -> None:
    """Print one block of lines per mode and seed, and one for all seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--patches", type=int, default=256)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11])
    parser.add_argument("--positions", choices=["original", "compact"])
    options = parser.parse_args()
    disable_progress_bar()
    rows = []
    by_seed = {seed: measure(seed, options) for seed in options.seeds}
    for mode in SCORERS:
        for seeds in [*([seed] for seed in options.seeds), *[options.seeds] * (len(options.seeds) > 1)]:
            together = [[row for seed in seeds for row in by_seed[seed][mode][part]] for part in range(3)]
            rows.append({"mode": mode, "seeds": seeds, **summarise(*together)})
            print("\n".join(f"{name:28}{value}" for name, value in rows[-1].items()) + "\n", flush=True)
    write_result(f"moments_{options.patches}", vars(options), rows)


if __name__ == "__main__":
    main()
