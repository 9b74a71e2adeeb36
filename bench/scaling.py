"""Time to the first token, and memory, for 64 to 2,048 sampled frames of one video in three modes.

    python -m bench.scaling        (in `make bench`)

The demo's model has nine tokens for two frames, so 2,048 frames are 9,216 visual tokens.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from bench.measure import extra_megabytes, write_result
from datamodules.needles import write_needle_videos
from flexselect import FlexSelect

MODEL, FRAMES, ROUNDS = "checkpoints/demo/video_llm", (64, 128, 256, 512, 1024, 2048), 3
WAYS = {"dense": None, "self": "self", "lite": "checkpoints/demo/selector"}
STAGES = ("decode", "encode", "score", "prefill")


def measured(fs: FlexSelect, video: Path, frames: int) -> dict:
    """Measure the median seconds of each stage, and the most memory of a round."""
    fs.family.max_frames = frames
    rounds, megabytes = [], list[float]()
    for _ in range(ROUNDS):
        with extra_megabytes(megabytes):
            rounds.append(fs.open(video).ask("What colour is the circle?", max_new_tokens=1))
    seconds = {stage: statistics.median(answer.timings[stage] for answer in rounds) for stage in STAGES}
    counts = {"frames": frames, "tokens": rounds[0].num_visual_tokens, "kept": rounds[0].num_kept_tokens}
    return {**counts, "seconds": seconds, "first_token_s": sum(seconds.values()), "megabytes": max(megabytes)}


def main() -> None:
    """Print one row per mode and number of frames."""
    disable_progress_bar()
    print(f"seconds to the first token, median of {ROUNDS}; megabytes above what the model takes")
    heads = ("frames", "tokens", "kept", "decode", "encode", "score", "prefill", "sum", "LLM only", "MB")
    print(f"{'mode':6}" + "".join(f"{head:>10}" for head in heads))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_needle_videos(Path(folder), videos=1, patches=max(FRAMES) // 2, questions=1)
        video = Path(folder) / "needles_000.mp4"
        for name, selector in WAYS.items():
            options = {"selector": selector, "dtype": "float32", "device": "cpu", "fps": float("inf")}
            fs = FlexSelect.from_pretrained(MODEL, **options)
            fs.open(video).ask("What colour is the circle?", max_new_tokens=1)  # warm-up
            for frames in FRAMES:
                row = {"mode": name, **measured(fs, video, frames)}
                s = row["seconds"]
                shown = [f"{row[count]:10}" for count in ("frames", "tokens", "kept")]
                shown += [f"{s[stage]:10.4f}" for stage in STAGES] + [f"{row['first_token_s']:10.4f}"]
                shown += [f"{s['score'] + s['prefill']:10.4f}{row['megabytes']:10.0f}"]
                print(f"{name:6}" + "".join(shown), flush=True)
                rows.append(row)
    write_result("scaling", {"model": MODEL, "rounds": ROUNDS}, rows)


if __name__ == "__main__":
    main()
