"""Ask about announced needles in several ways, each in a process of its own: peak memory is of one way alone."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers.utils.logging import disable_progress_bar

from bench.measure import memory
from datamodules.announced_needles import ANNOUNCED, EASY, HARD, Difficulty, Kind, write_announced_videos
from datamodules.needles import MOMENT
from flexselect import FlexSelect
from flexselect.storage.json_lines import read_json_lines

MODEL, SELECTOR = "checkpoints/demo/two_looks", "checkpoints/demo/two_looks_selector"
GROUP = 16  # frames from one key frame to the next
FIRST_LAYER = 3  # of the first look, for training-free selection; the second one has the model's, 1
SHRINK = 3.0  # of the first look: a frame is one token
EVERY = 8  # units, of which the first look takes one: an announcement is longer
TOGETHER = {
    "dtype": "float32",
    "device": "cpu",
    "positions": "compact",  # the model never saw such long videos
    "budget_split": "mass",
    "tokens_per_batch": 2048,  # a batch that an hour fills too, so that peaks of memory can be compared
}
MOST_FRAMES = 10**6  # of the full look: all
SEEN_GB = 0.004  # of the second look, kept for later questions: that of one question about two hours


@dataclass(frozen=True)
class Task:
    """Videos and questions."""

    how: Difficulty = EASY
    kinds: tuple[Kind, ...] = ("colour", "shape")
    fps: int = 2
    length: int = ANNOUNCED

    def write(self, folder: str, patches: int, needles: int, questions: int, seed: int, false: int) -> Path:
        """Write one video, see `write_announced_videos`; return its annotations."""
        content = patches, needles, questions, seed, false
        more = {"how": self.how, "kinds": self.kinds, "fps": self.fps, "length": self.length}
        return write_announced_videos(folder, 1, *content, key_distance=GROUP, **more)


TASKS = {
    "announced": Task(),
    "hard": Task(HARD, fps=3),
    "first": Task(kinds=("first",)),
    "count": Task(Difficulty(repeated=True), ("count",)),
    "unannounced": Task(length=MOMENT),
}


@dataclass(frozen=True)
class Way:
    """One way to ask: its name, and options of `FlexSelect.from_pretrained`."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


def at_cost(cost: float, shrink: float = SHRINK, name: str = "two looks", **options: Any) -> Way:
    """Look twice at this share of the frames; the first look takes one of every eight units, if it may."""
    share = min(0.9, 1 / (2 * EVERY * cost))
    looks = {"cost": cost, "first_look_share": share, "first_look_shrink": shrink, "second_look_gb": SEEN_GB}
    more = {"selector": "self", "max_frames": MOST_FRAMES, **looks, **options}
    more |= {"first_look_layer": FIRST_LAYER} if more["selector"] == "self" else {}
    return Way(f"{name} {cost:g}", more)


def fewer_frames(name: str, share: float, num_units: int, **options: Any) -> Way:
    """Look once at a share of the units, evenly spaced, in full."""
    return Way(f"{name} {share:g}", {"max_frames": 2 * max(2, round(share * num_units)), **options})


def _asked(way: Way, annotations: Path, model: str, fps: int, pipe: Any) -> None:
    """Ask all questions of a file of annotations; send what came of it."""
    disable_progress_bar()
    rows, _ = read_json_lines(annotations)
    fs = FlexSelect.from_pretrained(model, **{**TOGETHER, "fps": fps, **way.options})
    before, began = memory("VmRSS"), time.perf_counter()
    right, costs, again = list[bool](), list[dict](), list[float]()
    for name in sorted({row["video"] for row in rows}):
        session = fs.open(annotations.parent / name, progress=False)
        for number, row in enumerate(row for row in rows if row["video"] == name):
            asked = time.perf_counter()
            answer = session.ask(row["question"], 4)
            again += [time.perf_counter() - asked] if number else []
            right.append(answer.text == row["answer"])
            costs.append(answer.cost.to_dict())
    pipe.send({
        "right": right,
        **{name: statistics.mean(cost[name] for cost in costs) for name in costs[0]},
        "seconds": time.perf_counter() - began,
        "later_question": statistics.median(again) if again else None,
        "peak_mb": memory("VmHWM"),
        "extra_mb": memory("VmHWM") - before,
    })  # fmt: skip


def ask(way: Way, annotations: Path, model: str = MODEL, fps: int = 2) -> dict[str, Any]:
    """Ask all questions of a file of annotations in one way: whether each answer is right, costs, peak memory.

    Args:
        way: how to ask.
        annotations: see `write_announced_videos`.
        model: folder of the model.
        fps: frames per second of the full look.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe()
    process = context.Process(target=_asked, args=(way, annotations, model, fps, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join()


def line(name: str, results: Sequence[dict[str, Any]], full: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Summarise one way over several files, with its costs as shares of the full look's."""
    right = [value for result in results for value in result["right"]]

    def share(part: str) -> float:
        return sum(result[part] for result in results) / sum(result[part] for result in full)

    return {
        "way": name,
        "questions": len(right),
        "accuracy": round(statistics.mean(right), 4),
        **{part: round(share(part), 4) for part in ("frames", "decoded", "pixels", "tflop")},
        "kept": round(statistics.mean(result["kept"] for result in results), 1),
        "peak_mb": round(max(result["peak_mb"] for result in results)),
        "seconds": round(statistics.median(result["seconds"] for result in results), 2),
    }
