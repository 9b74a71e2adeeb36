"""Accuracy of the demo's task by tolerance: frames near the wanted ones, compared with exact frames.

    python -m bench.near_accuracy                 (two videos, a minute)
    python -m bench.near_accuracy --videos 26     (208 questions, as in the demo)

The demo's videos (256 seconds; shapes that are visible for 1.5 seconds) are written at 8 frames per second, with a key
frame every 2 or every 10 seconds and at no other time. The model sees a frame per half second, as in the demo, or
one per second or two.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from transformers.utils.logging import disable_progress_bar

from bench.measure import write_result
from datamodules.needles import ask, draw_needles, render
from flexselect import FlexSelect
from flexselect.storage.video_writer import write_video

MODEL = "checkpoints/demo/video_llm"
PATCHES, NEEDLES, QUESTIONS, SEED = 256, 4, 8, 0  # of a video; a patch is a second
REPEATED = 4  # times that each of the demo's frames is shown: 8 frames per second
KEYS = (2, 10)  # seconds between key frames
FRAMES = (512, 256, 128)  # that the model sees: one per half second, second, two seconds
TOLERANCES = (0.25, 0.5, 1.0, 2.0, 4.0)


def write(path: Path, number: int, seconds: int) -> list[Any]:
    """Write a video with a key frame every few seconds; return its questions."""
    rng = np.random.default_rng([SEED, number])
    shown = draw_needles(rng, NEEDLES, 2 * PATCHES)
    frames = (chunk.repeat(REPEATED, 0) for chunk in render(rng, shown, 2 * PATCHES))
    write_video(path, frames, 2 * REPEATED, key_distance=2 * REPEATED * seconds)
    return [ask(rng, shown, q % NEEDLES, q // NEEDLES % 2 == 0, choice=False) for q in range(QUESTIONS)]


def measure(videos: dict[Path, list[Any]], frames: int, **sampling: Any) -> dict[str, Any]:
    """Ask all questions about some videos with one way of sampling."""
    options = {"selector": "self", "dtype": "float32", "device": "cpu", "max_frames": frames, **sampling}
    fs = FlexSelect.from_pretrained(MODEL, **options)
    right, facts = list[bool](), list[dict]()
    for path, questions in videos.items():
        session = fs.open(path, progress=False)
        answers = session.ask_all([question.question for question in questions], 4)
        right += [answer.text == question.answer for answer, question in zip(answers, questions)]
        facts.append(session.sampling or {})
    row: dict[str, Any] = {"right": sum(right), "questions": len(right), "accuracy": fmean(right)}
    if sampling:
        row |= {f"moved_{name}_s": fmean(fact["moved"][name] for fact in facts) for name in ("mean", "max")}
        row["decoded"] = sum(fact["decoded"] for fact in facts) / sum(fact["decoded_if_exact"] for fact in facts)
    return row


def main() -> None:
    """Print a line per distance of key frames, number of frames and tolerance; write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=2)
    parser.add_argument("--frames", type=int, nargs="+", default=FRAMES)
    options = parser.parse_args()
    disable_progress_bar()
    ways = {"exact": {}, **{f"{t:g} s": {"sampling": "near", "tolerance": t} for t in TOLERANCES}}
    ways["default"] = {"sampling": "near"}
    rows = []
    print(f"{'keys s':>7}{'frames':>7}{'tolerance':>10}{'right':>10}{'accuracy':>9}{'moved mean':>11}{'decoded':>8}")
    with tempfile.TemporaryDirectory() as place:
        for seconds in KEYS:
            paths = [Path(place) / f"{number}_{seconds}.mp4" for number in range(options.videos)]
            videos = {path: write(path, number, seconds) for number, path in enumerate(paths)}
            for frames in options.frames:
                for name, sampling in ways.items():
                    row = measure(videos, frames, **sampling)
                    rows.append({"keys_s": seconds, "frames": frames, "tolerance": name, **row})
                    right = f"{row['right']}/{row['questions']}"
                    more = f"{row['moved_mean_s']:11.3f}{row['decoded']:8.2f}" if sampling else ""
                    print(f"{seconds:7}{frames:7}{name:>10}{right:>10}{row['accuracy']:9.3f}{more}", flush=True)
    write_result("near_accuracy", {"patches": PATCHES, **vars(options)}, rows)


if __name__ == "__main__":
    main()
