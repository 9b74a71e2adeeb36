"""The demo: render long videos, answer questions in five modes, print one table, draw two pictures.

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
from flexselect.storage.json_lines import read_json_lines

OUT = Path("outputs/demo")
MODES = ("dense", "uniform", "random", "self", "lite")
STAGES = ("decode", "encode", "score", "prefill", "generate")


def command_line(verb: str, mode: str, annotations: Path, out: Path) -> list[str]:
    """Return the command that a user would type."""
    return [
        *(sys.executable, "cli.py", verb, "--config", f"configs/demo/{mode}.yaml"),
        *("--data.annotations", str(annotations), "--output_dir", str(out), "--model.keep", "scores_kv"),
    ]


def run(command: list[str]) -> float:
    """Run a command to its end; return the peak memory of its process in megabytes."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    return usage.ru_maxrss / 1024


def emptied(folder: Path) -> Path:
    """Delete the results of an earlier demo, so that the table shows only this run; return the folder."""
    for old in folder.glob("*.json*"):
        old.unlink()
    return folder


def measure(mode: str, annotations: Path) -> dict:
    """Answer all questions in one mode; return a row of the table."""
    folder = emptied(OUT / mode)
    memory = run(command_line("predict", mode, annotations, folder))
    rows, _ = read_json_lines(folder / "predictions.jsonl")
    expected = {question.id: question for question in read_annotations(str(annotations))}
    right = [expected[row["id"]].is_right(row["answer"]) for row in rows]
    opening = {row["video"]: row for row in reversed(rows)}  # the first question about each video
    later = [row for row in rows if row is not opening[row["video"]]]
    first, again = mean_stages(list(opening.values()), STAGES), mean_stages(later, STAGES[2:])
    share = len(opening) / len(rows)  # decoding and encoding happen once per video, for all its questions
    stages = {stage: share * first[stage] + (1 - share) * again.get(stage, 0.0) for stage in STAGES}
    return {
        "mode": mode,
        "accuracy": sum(right) / len(right),
        "questions": len(rows),
        "visual_tokens": rows[0]["num_visual_tokens"],
        "kept_tokens": rows[0]["num_kept_tokens"],
        "seconds_per_question": sum(stages.values()),
        "first_question": sum(first.values()),
        "later_question": sum(again.values()),
        "peak_memory_mb": memory,
        "seconds_by_stage": stages,
        "seconds_by_stage_first": first,
        "seconds_by_stage_later": again,
    }


def mean_stages(rows: list[dict], stages: tuple[str, ...]) -> dict[str, float]:
    """Compute the mean seconds per question of each stage."""
    return {stage: sum(row["timings"].get(stage, 0.0) for row in rows) / len(rows) for stage in stages}


def show(table: list[dict]) -> None:
    """Print the table."""
    print("\nSeconds of the first question about a video, stage by stage, and of a later one; means.")
    head = f"{'mode':7} {'accuracy':>8} {'kept':>12} {'first':>7} = " + " + ".join(f"{s:>8}" for s in STAGES)
    print(head + f" {'later':>7} = {'score':>6} + {'prefill':>7} + {'generate':>8} {'peak MB':>8}")
    for row in table:
        kept = f"{row['kept_tokens']} of {row['visual_tokens']}"
        first, again = row["seconds_by_stage_first"], row["seconds_by_stage_later"]
        later = f"{again['score']:6.3f} + {again['prefill']:7.3f} + {again['generate']:8.3f}"
        stages = " + ".join(f"{first[stage]:8.3f}" for stage in STAGES)
        print(
            f"{row['mode']:7} {row['accuracy']:8.3f} {kept:>12} {row['first_question']:7.3f} = {stages} "
            f"{row['later_question']:7.3f} = {later} "
            f"{row['peak_memory_mb']:8.0f}"
        )


def draw(annotations: Path) -> list[Path]:
    """Draw two pictures of one question: frames with the kept tokens lit, and frames with the scores of all tokens."""
    from flexselect import FlexSelect
    from flexselect.visualize import heat_map, kept_tokens, map_tokens

    question = read_annotations(str(annotations))[0]
    fs = FlexSelect.from_pretrained("checkpoints/demo/video_llm", selector="self", dtype="float32", device="cpu")
    session = fs.open(annotations.parent / question.video)
    answer = session.ask(question.text, max_new_tokens=4)
    title = f"{question.text} - {answer.text}   ({answer.num_kept_tokens} of {answer.num_visual_tokens} tokens kept)"
    token_map, paths = map_tokens(session, answer.selection), [OUT / "kept_tokens.png", OUT / "heat_map.png"]
    for path, draw_picture in zip(paths, (kept_tokens, heat_map)):
        draw_picture(token_map, title).savefig(path)
    return paths


def main() -> None:
    """Render the videos, answer in all modes, print the table, draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=26)
    parser.add_argument(
        "--patches",
        type=int,
        default=256,
        help="length of each video in temporal patches; each is one second, two frames",
    )
    options = parser.parse_args()
    print(f"Rendering {options.videos} videos of {options.patches} temporal patches ...", flush=True)
    annotations = write_needle_videos(OUT / "videos", options.videos, options.patches, seed=2026)
    table = []
    for mode in MODES:
        print(f"Answering 8 questions on each, {mode} ...", flush=True)
        table.append(measure(mode, annotations))
    (OUT / "table.json").write_text(json.dumps(table, indent=2) + "\n")
    show(table)
    print("\nRunning validate, training-free, with a report ...", flush=True)
    run([*command_line("validate", "self", annotations, emptied(OUT / "self_validate")), "--report"])
    results = json.loads((OUT / "self_validate" / "results.json").read_text())
    print(f"accuracy {results['accuracy']:.3f}, {results['questions']} questions, {results['errors']} errors")
    print(f"\nTable: {OUT / 'table.json'}\nPictures: {', '.join(map(str, draw(annotations)))}")
    print(f"Report: {OUT / 'self_validate' / 'report.html'}")


if __name__ == "__main__":
    main()
