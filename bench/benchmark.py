"""Seconds per question of a validation: five questions per video together, one by one, and with features kept on disk.

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
    """Measure the wall time of a validation per question, without loading the model."""
    annotations = folder / "asked.jsonl"
    annotations.write_text("".join(json.dumps(row) + "\n" for row in rows))
    family, timer = family_of(MODEL), Timer()
    data = VideoQADataModule(family, annotations=str(annotations), num_workers=0)
    model = VideoQA(family, selector=selector, dtype="float32", feature_cache=str(cache) if cache else None)
    bare = {name: False for name in ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")}
    trainer = Trainer(accelerator="cpu", devices=1, callbacks=[timer], **bare)
    trainer.validate(model, data, verbose=False)
    return timer.time_elapsed("validate") / len(rows)


def one_video_per_question(folder: Path, rows: list[dict]) -> list[dict]:
    """Link a separate video file for each question, and return the questions about these files."""
    separate = []
    for i, row in enumerate(rows):
        video = folder / f"{i}-{row['video']}"
        if not video.exists():
            os.link(folder / row["video"], video)
        separate.append({**row, "video": video.name})
    return separate


def main() -> None:
    """Measure the three ways in turn, a few times; print medians and ratios."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning causes it in every run
    disable_progress_bar()
    print(f"{VIDEOS} videos of {PATCHES} units, {QUESTIONS} questions each; seconds per question, median of {TIMES}")
    print(f"{'selector':10}{'apart':>10}{'together':>10}{'ratio':>8}{'kept features':>16}{'ratio':>8}")
    table = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows, _ = read_json_lines(write_needle_videos(folder, videos=VIDEOS, patches=PATCHES, questions=QUESTIONS))
        separate = one_video_per_question(folder, rows)
        for selector in ("self", "checkpoints/demo/selector"):
            cache = folder / "features" / Path(selector).name
            seconds(folder, rows, selector, cache)  # warm-up; also fills the cache
            rounds: dict[str, list[float]] = {"apart": [], "together": [], "kept": []}
            for _ in range(TIMES):
                rounds["apart"].append(seconds(folder, separate, selector))
                rounds["together"].append(seconds(folder, rows, selector))
                rounds["kept"].append(seconds(folder, rows, selector, cache))
            median = {way: statistics.median(times) for way, times in rounds.items()}
            times_faster = {way: median["apart"] / median[way] for way in ("together", "kept")}
            table.append({"selector": selector, "seconds": median, "times_faster": times_faster})
            print(
                f"{Path(selector).name:10}{median['apart']:10.3f}{median['together']:10.3f}"
                f"{times_faster['together']:8.2f}{median['kept']:16.3f}{times_faster['kept']:8.2f}"
            )
    settings = {"videos": VIDEOS, "units": PATCHES, "questions_a_video": QUESTIONS, "rounds": TIMES}
    write_result("benchmark", settings, table)


if __name__ == "__main__":
    main()
