"""Seconds of the first and the later questions about a video, compared with prefilling the kept tokens and generating.

    python -m bench.session        (in `make bench`)

Two kinds of models are measured: the demo's model on a rendered video, and the three published families with random
weights. The latter get random features in place of the tower's, with the released models' number of tokens per unit.
One token in sixteen is kept, as published. `verify` is the time of a proof over that of a prefill of the kept tokens.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from bench.measure import write_result
from bench.models import FAMILIES, random_model, random_video
from datamodules.needles import write_needle_videos
from flexselect import FlexSelect
from flexselect.session import VideoSession

DEMO, DEMO_UNITS = "checkpoints/demo/video_llm", 512
UNITS, UNITS_PER_SET, SHARE = 128, 32, 16
QUESTIONS, NEW_TOKENS = {"features": 4, "scores_kv": 16, "auto": 16}, 4
PROOFS = 4
SHAPES = ("circle", "square", "ring", "cross")
STAGES = ("score", "prefill", "generate")


def ask_all(session: VideoSession) -> dict:
    """Ask many questions; return the seconds of each stage for the first, the second and the median later question."""
    answers = [session.ask(question(i), NEW_TOKENS).timings for i in range(QUESTIONS[session.keep])]
    later = {stage: statistics.median(timings[stage] for timings in answers[1:]) for stage in STAGES}
    first, second = ({stage: answers[i][stage] for stage in STAGES} for i in range(2))
    answering = later["prefill"] + later["generate"]
    seconds = {"first": first, "second": second, "later": later, "ratio": (later["score"] + answering) / answering}
    proofs = [session.ask(question(i), NEW_TOKENS, verify=True).timings for i in range(PROOFS)]
    verify = statistics.median(timings["verify"] / timings["prefill"] for timings in proofs)
    return {**seconds, "verify_over_prefill": verify, "kept_mb": sum(session.num_bytes.values()) / 1e6}


def question(number: int) -> str:
    """Return one of four questions."""
    return f"What colour is the {SHAPES[number % len(SHAPES)]}?"


def measured(name: str, selector: str, open_session: Callable[[], VideoSession]) -> list[dict]:
    """Measure both values of `keep`; print and return one row for each.

    Args:
        name: name of the model.
        selector: label of the selector.
        open_session: opens a new session.
    """
    rows = []
    for keep in QUESTIONS:
        open_session().keeping(keep).ask(question(0), NEW_TOKENS, verify=True)  # warm-up
        row = {"model": name, "selector": selector, "keep": keep, **ask_all(open_session().keeping(keep))}
        later = row["later"]
        print(
            f"{name:12}{selector:6}{keep:>10}{row['first']['score']:13.4f}{row['second']['score']:9.4f}"
            f"{later['score']:9.4f}{later['prefill']:9.4f}{later['generate']:10.4f}{row['ratio']:7.2f}"
            f"{row['verify_over_prefill']:8.2f}{row['kept_mb']:8.1f}",
            flush=True,
        )
        rows.append(row)
    return rows


def main() -> None:
    """Measure all models; print the cost of a later question relative to prefill and generation alone."""
    disable_progress_bar()
    set_verbosity_error()
    print(f"demo: {DEMO_UNITS} units of 9 tokens, 112 kept; others: {UNITS} units, one token in {SHARE} kept; seconds")
    print(
        f"{'model':12}{'':6}{'keep':>10}{'first score':>13}{'second':>9}{'later':>9}{'prefill':>9}{'generate':>10}"
        f"{'ratio':>7}{'verify':>8}{'MB':>8}"
    )
    table = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_needle_videos(folder, videos=1, patches=DEMO_UNITS, questions=1)
        for label, selector in (("self", "self"), ("lite", "checkpoints/demo/selector")):
            fs = FlexSelect.from_pretrained(DEMO, selector=selector, dtype="float32", device="cpu")
            table += measured("demo", label, lambda fs=fs: fs.open(folder / "needles_000.mp4"))
        for name in FAMILIES:
            model = random_model(folder / name, name)
            for label, selector in (("self", "self"), ("lite", str(model / "selector"))):
                options = {"selector": selector, "dtype": "float32", "device": "cpu", "units_per_set": UNITS_PER_SET}
                fs = FlexSelect.from_pretrained(str(model), **options)
                video = random_video(fs, name, UNITS)
                budget = video.num_tokens // SHARE
                fs = FlexSelect(fs.lm, fs.family, fs.scorer, **{**vars(fs.options), "budget": budget})
                table += measured(name, label, lambda fs=fs, video=video: fs.open_encoded(video))
    write_result("session", {"demo_units": DEMO_UNITS, "units": UNITS, "questions": QUESTIONS}, table)


if __name__ == "__main__":
    main()
