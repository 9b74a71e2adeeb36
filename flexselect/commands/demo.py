"""The verb `demo`: the model that is included answers questions about a rendered video, in three modes."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from flexselect.commands.help.texts import program
from flexselect.commands.verbs import ALL_ANSWERED
from flexselect.evaluation.questions import VideoQuestion
from flexselect.pipeline import FlexSelect

MODEL = "checkpoints/demo/video_llm"
MODES = {"dense": None, "self": "self", "lite": "checkpoints/demo/selector"}


def run_demo(video: Path, questions: Sequence[VideoQuestion]) -> int:
    """Ask questions about a needle video in three modes; print a table, and what to type next.

    Args:
        video: the video.
        questions: questions about it, with answers.

    Returns:
        The exit status.
    """
    sys.stdout.write(
        f"{video}: {len(questions)} questions about coloured shapes, each visible for 1.5 of 256 seconds\n\n"
    )
    sys.stdout.write(f"{'mode':6}{'tokens shown':>16}{'right':>9}{'seconds of a later question':>30}\n")
    for mode, selector in MODES.items():
        fs = FlexSelect.from_pretrained(MODEL, selector=selector, dtype="float32", device="cpu")
        session = fs.open(video, keep="scores_kv", progress=False)
        right, seconds = 0, list[float]()
        for question in questions:
            began = time.perf_counter()
            answer = session.ask(question.text, max_new_tokens=4)
            seconds.append(time.perf_counter() - began)
            right += question.is_right(answer.text)
        shown, later = f"{answer.num_kept_tokens} of {answer.num_visual_tokens}", statistics.median(seconds[1:])
        sys.stdout.write(f"{mode:6}{shown:>16}{f'{right} of {len(questions)}':>9}{later:>30.3f}\n")
        sys.stdout.flush()
    sys.stdout.write(f'\nAsk it yourself: {program()} ask {video} "{questions[0].question}" --model demo/self\n')
    sys.stdout.write(f'Your own video, on a GPU: {program()} ask talk.mp4 "What is on the first slide?"\n')
    return ALL_ANSWERED
