"""The demo: long videos, a model that really answers, four ways to choose its visual tokens, one table, one picture.

python -m bench.demo        (make demo)
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from datamodules.needles import write_needle_videos
from datamodules.video_qa import read_annotations

OUT = Path("outputs/demo")
MODES = ("dense", "uniform", "random", "self", "lite")
STAGES = ("decode", "encode", "score", "prefill", "generate")


def command_line(verb: str, mode: str, annotations: Path, out: Path) -> list[str]:
    """What a user would type."""
    return [
        *(sys.executable, "cli.py", verb, "--config", f"configs/demo/{mode}.yaml"),
        *("--data.annotations", str(annotations), "--output_dir", str(out)),
    ]


def run(command: list[str]) -> float:
    """Run to the end; the peak memory of the process, in megabytes."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    return usage.ru_maxrss / 1024


def fresh(folder: Path) -> Path:
    """Without what an earlier demo wrote: the table is of this run alone."""
    for old in folder.glob("*.json*"):
        old.unlink()
    return folder


def measure(mode: str, annotations: Path) -> dict:
    """Answer all questions in one mode; a row of the table."""
    folder = fresh(OUT / mode)
    memory = run(command_line("predict", mode, annotations, folder))
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    expected = {question.id: question for question in read_annotations(str(annotations))}
    right = [expected[row["id"]].is_right(row["answer"]) for row in rows]
    asked_per_video = len(rows) / len({row["video"] for row in rows})
    stages = {stage: sum(row["timings"].get(stage, 0.0) for row in rows) / len(rows) for stage in STAGES}
    for shared in ("decode", "encode"):  # each row names what its video cost; it was spent once a video
        stages[shared] /= asked_per_video
    return {
        "mode": mode,
        "accuracy": sum(right) / len(right),
        "questions": len(rows),
        "visual_tokens": rows[0]["num_visual_tokens"],
        "kept_tokens": rows[0]["num_kept_tokens"],
        "seconds_per_question": sum(stages.values()),
        "peak_memory_mb": memory,
        "seconds_by_stage": stages,
    }


def show(table: list[dict]) -> None:
    """Print the table."""
    head = f"{'mode':8} {'accuracy':>8} {'kept':>12} {'s/question':>10} = " + " + ".join(f"{s:>8}" for s in STAGES)
    print("\n" + head + f" {'peak MB':>8}")
    for row in table:
        kept = f"{row['kept_tokens']} of {row['visual_tokens']}"
        stages = " + ".join(f"{row['seconds_by_stage'][stage]:8.3f}" for stage in STAGES)
        print(
            f"{row['mode']:8} {row['accuracy']:8.3f} {kept:>12} {row['seconds_per_question']:10.3f} = {stages} "
            f"{row['peak_memory_mb']:8.0f}"
        )


def draw(annotations: Path) -> Path:
    """One question on one video: frames with the kept tokens lit."""
    from flexselect import FlexSelect
    from flexselect.visualize import kept_tokens

    question = read_annotations(str(annotations))[0]
    fs = FlexSelect.from_pretrained("checkpoints/demo/video_llm", selector="self", dtype="float32", device="cpu")
    session = fs.open(annotations.parent / question.video)
    answer = session.ask(question.text, max_new_tokens=4)
    path = OUT / "kept_tokens.png"
    title = f"{question.text} - {answer.text}   ({answer.num_kept_tokens} of {answer.num_visual_tokens} tokens kept)"
    kept_tokens(path, session.clip.pixels, session.clip.grid, answer.selection, title)
    return path


def main() -> None:
    """Render, answer, compare, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=26)
    parser.add_argument("--patches", type=int, default=256, help="length of each video; one is a second, two frames")
    options = parser.parse_args()
    print(f"Rendering {options.videos} videos of {options.patches} temporal patches ...", flush=True)
    annotations = write_needle_videos(OUT / "videos", options.videos, options.patches, seed=2026)
    table = []
    for mode in MODES:
        print(f"Answering 8 questions on each, {mode} ...", flush=True)
        table.append(measure(mode, annotations))
    (OUT / "table.json").write_text(json.dumps(table, indent=2) + "\n")
    show(table)
    print("\nThe same through validate, training-free ...", flush=True)
    run(command_line("validate", "self", annotations, fresh(OUT / "self_validate")))
    results = json.loads((OUT / "self_validate" / "results.json").read_text())
    print(f"accuracy {results['accuracy']:.3f}, {results['questions']} questions, {results['errors']} errors")
    print(f"\nTable: {OUT / 'table.json'}\nPicture: {draw(annotations)}")


if __name__ == "__main__":
    main()
