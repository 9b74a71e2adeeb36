"""Seconds a question of a validation: five questions a video together, each apart, and once more from kept features.

python -m bench.benchmark        (in `make bench`)
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import tempfile
import warnings
from pathlib import Path

from lightning import Trainer
from lightning.pytorch.callbacks import Timer
from transformers.utils.logging import disable_progress_bar

from bench.measure import write_result
from datamodules.needles import write_needle_videos
from datamodules.video_qa import VideoQADataModule
from flexselect.families import family_of
from flexselect.storage.json_lines import read_json_lines
from lightning_modules.video_qa import VideoQA

MODEL = "checkpoints/demo/video_llm"
VIDEOS, QUESTIONS, PATCHES, TIMES = 4, 5, 256, 3


def seconds(folder: Path, rows: list[dict], selector: str, cache: Path | None = None) -> float:
    """Wall time of a validation without loading the model, a question."""
    annotations = folder / "asked.jsonl"
    annotations.write_text("".join(json.dumps(row) + "\n" for row in rows))
    family, timer = family_of(MODEL), Timer()
    data = VideoQADataModule(family, annotations=str(annotations), num_workers=0)
    model = VideoQA(family, selector=selector, dtype="float32", feature_cache=str(cache) if cache else None)
    bare = {name: False for name in ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")}
    trainer = Trainer(accelerator="cpu", devices=1, callbacks=[timer], **bare)
    trainer.validate(model, data, verbose=False)
    return timer.time_elapsed("validate") / len(rows)


def apart(folder: Path, rows: list[dict]) -> list[dict]:
    """The same questions, each about a video file of its own."""
    result = []
    for i, row in enumerate(rows):
        video = folder / f"{i}-{row['video']}"
        if not video.exists():
            os.link(folder / row["video"], video)
        result.append({**row, "video": video.name})
    return result


def main() -> None:
    """Measure each way in turn, a few times; print medians and ratios."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own, on every run
    disable_progress_bar()
    print(
        f"{VIDEOS} videos of {PATCHES} units, {QUESTIONS} questions each; seconds a question, median of {TIMES} rounds"
    )
    print(f"{'selector':10}{'apart':>10}{'together':>10}{'ratio':>8}{'kept features':>16}{'ratio':>8}")
    table = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows, _ = read_json_lines(write_needle_videos(folder, videos=VIDEOS, patches=PATCHES, questions=QUESTIONS))
        single = apart(folder, rows)
        for selector in ("self", "checkpoints/demo/selector"):
            cache = folder / "features" / Path(selector).name
            seconds(folder, rows, selector, cache)  # warm-up, and fills the cache
            result: dict[str, list[float]] = {"apart": [], "together": [], "kept": []}
            for _ in range(TIMES):
                result["apart"].append(seconds(folder, single, selector))
                result["together"].append(seconds(folder, rows, selector))
                result["kept"].append(seconds(folder, rows, selector, cache))
            median = {way: statistics.median(times) for way, times in result.items()}
            times_faster = {way: median["apart"] / median[way] for way in ("together", "kept")}
            table.append({"selector": selector, "seconds": median, "times_faster": times_faster})
            print(
                f"{Path(selector).name:10}{median['apart']:10.3f}{median['together']:10.3f}"
                f"{times_faster['together']:8.2f}{median['kept']:16.3f}{times_faster['kept']:8.2f}"
            )
    about = {"videos": VIDEOS, "units": PATCHES, "questions_a_video": QUESTIONS, "rounds": TIMES}
    write_result("benchmark", about, table)


if __name__ == "__main__":
    main()
