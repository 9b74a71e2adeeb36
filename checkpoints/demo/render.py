"""Render the training and validation videos of a demo's selector.

python checkpoints/demo/render.py outputs/demo_selector
python checkpoints/demo/render.py outputs/two_looks_selector two_looks
"""

import sys
from pathlib import Path

from datamodules.announced_needles import write_announced_videos
from datamodules.needles import CELL, write_needle_videos
from datamodules.video import read_video
from flexselect.families.inputs import resize_to
from flexselect.storage.json_lines import json_line, read_json_lines
from flexselect.storage.video_writer import write_video

EVERY = 16  # frames, of which a first look takes one


def write_both_looks(folder: Path, videos: int, questions: int, seed: int) -> None:
    """Write announced needles of a minute, and first looks at videos of nine, as files of small frames."""
    write_announced_videos(folder, videos, 64, 4, questions, seed)
    long = write_announced_videos(folder / "long", videos, 512, 4, questions, seed + 1000)
    for file in sorted((folder / "long").glob("*.mp4")):
        frames, _ = read_video(file, lambda count, fps: range(0, count, EVERY), lambda frames: frames)
        small = resize_to(frames, CELL, CELL).repeat_interleave(2, 0)  # a unit has two frames
        write_video(folder / f"first_look_{file.name}", iter([small.numpy()]), 2)
        file.unlink()
    with (folder / "annotations.jsonl").open("a", encoding="utf-8") as table:
        for row in read_json_lines(long)[0]:
            asked = {"question": row["question"], "answer": row["answer"]}  # times are of the long video
            table.write(json_line({"id": f"first-{row['id']}", "video": f"first_look_{row['video']}", **asked}))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    if sys.argv[2:] == ["two_looks"]:
        write_both_looks(folder / "train", videos=150, questions=8, seed=11)
        write_both_looks(folder / "val", videos=8, questions=4, seed=12)
    else:
        write_needle_videos(folder / "train", videos=300, patches=64, needles=4, questions=8, seed=11)
        write_needle_videos(folder / "val", videos=12, patches=64, needles=4, questions=4, seed=12)
