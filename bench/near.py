"""Processor time of reading frames near the wanted ones, by tolerance, compared with exact frames.

    python -m bench.near                 (in `make bench`: two minutes of 360p; a minute)
    nice python -m bench.near --large    (an hour of 720p and two of 1080p at 1,024 frames, other codecs; an hour)

Key frames are at most 2 seconds apart, or 250 frames, which is x264's default. `shown` is the least there is: a plain
loop that seeks, decodes and resizes one key frame for each frame that is shown. Every measurement runs in a process of
its own, and all of them find the video's frame index in the cache; `index s` is what reading it took.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from fractions import Fraction
from functools import partial
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from bench.decode import resize
from bench.long_videos import FOLDER, FPS, long_video
from bench.measure import alone, write_result
from datamodules.video import open_video, read_file
from datamodules.video_files.geometry import to_picture
from flexselect.structures.frames import ReadOptions

CACHE = FOLDER / "cache"  # of frame indices, instead of the user's
TOLERANCES = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)  # seconds, besides half the distance of the wanted frames
SMALL = [(2, (360, 640), keys, "h264", 32) for keys in (2 * FPS, 250)]
LARGE = [
    *((60, (720, 1280), keys, "h264", 1024) for keys in (2 * FPS, 250)),
    *((60, (720, 1280), 2 * FPS, codec, 1024) for codec in ("hevc", "vp9", "av1")),
    *((120, (1080, 1920), keys, "h264", 1024) for keys in (2 * FPS, 250)),
]


def evenly(count: int, num_frames: int, fps: float) -> list[int]:
    """Take `count` frames, spread over the video."""
    return np.linspace(0, num_frames - 1, count).round().astype(int).tolist()


def read(path: str, count: int, options: ReadOptions | None) -> Tensor:
    """Read frames; None: key frames in a plain loop.

    Returns:
        Seconds of the processor, mean and largest move in seconds, frames decoded, and decoded if exact: float64 [5].
    """
    began, facts = time.process_time(), dict[str, Any]()
    if options is None:
        read_key_frames(path, count)
    else:
        stream = open_video(path, partial(evenly, count), resize, options)
        facts = stream.about.facts
        for _ in stream.read():
            pass
    moved = facts.get("moved", {"mean": 0, "max": 0})
    numbers = [moved["mean"], moved["max"], facts.get("decoded", count), facts.get("decoded_if_exact", count)]
    return torch.tensor([time.process_time() - began, *numbers], dtype=torch.float64)


def read_key_frames(path: str, count: int) -> None:
    """Seek, decode and resize key frames, as many as frames are wanted; of a rare one several times."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        context.thread_count = 1
        for i in range(count):
            container.seek(round(i * (stream.duration or 0) / count), stream=stream)
            packet = next(container.demux(stream))
            frames = [*context.decode(packet), *context.decode(None)]
            resize(torch.from_numpy(to_picture(frames[0], Fraction(1), None))[None])


def arguments(path: str, options: ReadOptions | None, count: int) -> tuple[str, int, ReadOptions | None]:
    """Return the arguments of `read`."""
    return path, count, options


def measure(path: str, count: int, tolerances: list[float | None], rounds: int) -> list[dict[str, Any]]:
    """Measure one video: exact frames, `shown`, and each tolerance, in turns; return a row of medians for each."""
    ways: dict[str, ReadOptions | None] = {"exact": ReadOptions(), "shown": None}
    ways |= {"default" if t is None else f"{t:g} s": ReadOptions(sampling="near", tolerance=t) for t in tolerances}
    runs = {name: list[tuple]() for name in ways}
    for _ in range(rounds):
        for name, options in ways.items():
            megabytes, _, numbers = alone(read, partial(arguments, path, options), count, 2, times=1)
            runs[name].append((*numbers.tolist(), megabytes))
    names = ("cpu_s", "moved_mean_s", "moved_max_s", "decoded", "if_exact", "extra_mb")
    rows = [{"way": name, **dict(zip(names, np.median(runs[name], axis=0).tolist()))} for name in ways]
    rows[0]["decoded"] = rows[-1]["if_exact"]
    exact, shown = rows[0]["cpu_s"], rows[1]["cpu_s"]
    for row in rows:
        del row["if_exact"]
        row |= {"exact_to": exact / row["cpu_s"], "to_shown": row["cpu_s"] / shown}
    return rows


def index_seconds(path: str) -> tuple[float, float]:
    """Return the processor time to read the index of a video for the first time, and from the cache."""
    seconds = []
    for _ in range(2):
        began = time.process_time()
        read_file(path, ReadOptions())
        seconds.append(time.process_time() - began)
    return seconds[0], seconds[1]


def show(row: dict[str, Any]) -> None:
    """Print a row."""
    numbers = f"{row['cpu_s']:9.2f}{row['exact_to']:10.2f}{row['to_shown']:10.2f}{row['decoded']:10.0f}"
    moved = f"{row['moved_mean_s']:12.3f}{row['moved_max_s']:11.3f}" if row["way"] != "shown" else " " * 23
    print(f"{row['way']:>9}{numbers}{moved}{row['extra_mb']:7.0f}", flush=True)


def main() -> None:
    """Measure all videos; print a table of each, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="long videos at 1,024 frames")
    parser.add_argument("--only", type=int, nargs="+", help="numbers of the long videos, from 0; by default all")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    shutil.rmtree(CACHE, ignore_errors=True)
    os.environ["XDG_CACHE_HOME"] = str(CACHE.absolute())
    videos = LARGE if options.large else SMALL
    for minutes, size, keys, codec, count in [videos[i] for i in options.only or range(len(videos))]:
        path = str(long_video(minutes, size, keys, codec))
        first, later = index_seconds(path)
        name = f"{minutes} minutes of {size[1]} x {size[0]}, {codec}, a key frame in {keys}"
        print(f"{name}: {count} frames; its index {first:.2f} s, later {later:.2f} s")
        print(
            f"{'':9}{'cpu s':>9}{'exact to':>10}{'to shown':>10}{'decoded':>10}{'moved mean':>12}{'max s':>11}{'MB':>7}"
        )
        tolerances = (TOLERANCES if options.large else TOLERANCES[2::3]) if codec == "h264" else ()
        rows = measure(path, count, [*tolerances, None], options.rounds)
        for row in rows:
            show(row)
        about = {"minutes": minutes, "size": size, "fps": FPS, "keys": keys, "codec": codec, "frames": count}
        about |= {"index_s": first, "index_later_s": later}
        write_result(f"near_{minutes}_{size[0]}_{codec}_{keys}", about, rows)


if __name__ == "__main__":
    main()
