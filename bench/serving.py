"""Seconds of a later question through the endpoint, compared with prefilling the kept tokens and generating.

    python -m bench.serving        (in `make bench`)

Models and videos are those of `bench.session`: random weights, random features, one token in sixteen kept. Questions to
the endpoint, with a plain HTTP client, take turns with the same questions to a session in the same process. The ratio
is the median of the former, from sending to the last byte, over the median seconds of prefill and generation alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import urllib.request
from pathlib import Path

from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from bench.measure import write_result
from bench.models import FAMILIES, random_model, random_video
from flexselect import FlexSelect
from flexselect.page.modes import Modes
from flexselect.page.page import Page
from flexselect.serving.server import Address, Limits, endpoint_of, guarded, listening
from flexselect.serving.videos.video_store import Entry
from flexselect.structures.frames import ReadOptions

SHARE, UNITS_PER_SET, NEW_TOKENS, UUID = 16, 32, 4, "film"
ROOM = {"cpu": 10**10, "disk": 0}


def loaded(folder: Path, name: str, units: int) -> tuple[Modes, Entry]:
    """Load a random model of a family in all modes, and make a video for it."""
    model = random_model(folder / name, name)
    options = {"selector": "self", "dtype": "float32", "device": "cpu", "units_per_set": UNITS_PER_SET}
    fs = FlexSelect.from_pretrained(str(model), **options)
    video = random_video(fs, name, units)
    budget = video.num_tokens // SHARE
    fs = FlexSelect(fs.lm, fs.family, fs.scorer, **{**vars(fs.options), "budget": budget})
    return Modes(fs, str(model / "selector")), Entry(video, {}, "cpu")


def through_endpoint(url: str, selector: str, question: str) -> float:
    """Ask the endpoint; return the seconds."""
    content = [{"type": "video_url", "uuid": UUID}, {"type": "text", "text": question}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": NEW_TOKENS, "selector": selector}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}v1/chat/completions", json.dumps(body).encode(), headers)
    began = time.perf_counter()
    with urllib.request.urlopen(request) as response:
        response.read()
    return time.perf_counter() - began


def measured(modes: Modes, entry: Entry, selector: str, questions: int) -> dict:
    """Ask later questions both ways, in turns; return medians in seconds and their ratio."""
    asked, alone = [], []
    with (
        endpoint_of(Page(modes, None, NEW_TOKENS, "model"), Limits(), dict(ROOM)) as endpoint,
        listening(guarded(endpoint.app(), Address("127.0.0.1")), Address("127.0.0.1")) as (url, _),
    ):
        endpoint.door._keys[f"uuid {UUID}"] = UUID, float("inf")
        endpoint.store._entries[UUID, ReadOptions()] = entry
        session = modes.engine(selector).open_encoded(entry.encoded)
        for number in range(questions + 1):
            question = f"What is number {number % 7}?"
            seconds = through_endpoint(url, selector, question)
            timings = session.ask(question, NEW_TOKENS).timings
            if number > 0:  # the first one fills the caches
                asked.append(seconds)
                alone.append(timings["prefill"] + timings["generate"])
    medians = {"endpoint": statistics.median(asked), "answering": statistics.median(alone)}
    return {"selector": selector, **medians, "ratio": medians["endpoint"] / medians["answering"]}


def main(args: list[str] | None = None) -> None:
    """Measure all families; print one line each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--questions", type=int, default=15)
    parser.add_argument("--families", nargs="+", default=FAMILIES)
    options = parser.parse_args(args)
    disable_progress_bar()
    set_verbosity_error()
    print(f"{'model':12}{'':6}{'endpoint':>10}{'answering':>11}{'ratio':>7}    seconds, medians of later questions")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.families:
            modes, entry = loaded(Path(folder), name, options.units)
            for selector in ("self", "lite"):
                row = {"model": name, **measured(modes, entry, selector, options.questions)}
                print(
                    f"{name:12}{selector:6}{row['endpoint']:10.4f}{row['answering']:11.4f}{row['ratio']:7.2f}",
                    flush=True,
                )
                rows.append(row)
                entry.sessions.clear()
    write_result("serving", {"units": options.units, "questions": options.questions}, rows)


if __name__ == "__main__":
    main()
