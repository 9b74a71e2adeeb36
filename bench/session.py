"""The first and the later questions about a video, by what is kept: seconds to score, beside prefill and generation.

python -m bench.session        (in `make bench`)
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from bench.measure import write_result
from datamodules.needles import write_needle_videos
from flexselect import FlexSelect

MODEL, QUESTIONS, PATCHES = "checkpoints/demo/video_llm", 24, 512
ASKED = ("What colour is the {}?", "Which shape is {}?")


def ask_all(fs: FlexSelect, video: str, keep: str) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of the first question by stage, and the median of the later ones."""
    session = fs.open(video, keep=keep)
    answers = [session.ask(ASKED[i % 2].format("circle"), max_new_tokens=4).timings for i in range(QUESTIONS)]
    stages = ("score", "prefill", "generate")
    later = {stage: statistics.median(timings[stage] for timings in answers[1:]) for stage in stages}
    return {stage: answers[0][stage] for stage in stages}, later


def main() -> None:
    """Measure; print the ratio of a later question to prefill and generation alone."""
    disable_progress_bar()
    print(f"one video of {PATCHES} units; seconds of the first question, and the median of {QUESTIONS - 1} later ones")
    print(
        f"{'selector':10}{'keep':>12}{'first score':>13}{'score':>9}{'prefill':>9}{'generate':>10}{'ratio':>8}{'MB':>8}"
    )
    table = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_needle_videos(folder, videos=1, patches=PATCHES, questions=1)
        video = str(folder / "needles_000.mp4")
        for selector in ("self", "checkpoints/demo/selector"):
            fs = FlexSelect.from_pretrained(MODEL, selector=selector, dtype="float32", device="cpu")
            ask_all(fs, video, "scores_kv")  # warm-up
            for keep in ("features", "scores_kv"):
                first, later = ask_all(fs, video, keep)
                session = fs.open(video, keep=keep)
                session.select("Which shape is red?")
                answering = later["prefill"] + later["generate"]
                ratio, size = (later["score"] + answering) / answering, sum(session.num_bytes.values()) / 1e6
                about = {"selector": selector, "keep": keep, "first": first, "later": later}
                table.append({**about, "ratio": ratio, "kept_mb": size})
                print(
                    f"{Path(selector).name:10}{keep:>12}{first['score']:13.4f}{later['score']:9.4f}"
                    f"{later['prefill']:9.4f}{later['generate']:10.4f}{ratio:8.2f}{size:8.1f}"
                )
    write_result("session", {"units": PATCHES, "questions": QUESTIONS}, table)


if __name__ == "__main__":
    main()
