import hashlib
import json

import numpy as np

from datamodules.needles import COLOURS, MOMENT, SHAPES, ask, draw_needles, render, write_needle_videos
from datamodules.video import read_video


def test_a_needle_is_seen_in_its_cell_and_moment_only():
    rng = np.random.default_rng(0)
    (needle,) = draw_needles(rng, 1, 40)
    frames = np.concatenate(list(render(rng, [needle], 40))).astype(int)
    y, x = 28 * needle.row + 14, 28 * needle.column + 14
    reach = 1 if needle.shape != "ring" else 9  # the middle of a ring is empty
    away = np.abs(frames[:, y + reach - 1, x] - COLOURS[needle.colour]).max(-1)
    seen = np.flatnonzero(away < 40)
    assert seen.tolist() == list(range(needle.start, needle.start + MOMENT))


def test_needles_of_a_clip_differ():
    for seed in range(20):
        needles = draw_needles(np.random.default_rng(seed), 6, 100)
        assert len({n.shape for n in needles}) == len({n.colour for n in needles}) == 6
        assert len({(n.row, n.column) for n in needles}) == 6
        assert all(0 <= n.start <= 100 - MOMENT for n in needles)


def test_questions_have_the_needle_as_answer():
    rng = np.random.default_rng(0)
    needles = draw_needles(rng, 3, 10)
    for by_shape in (True, False):
        words = ask(rng, needles, 1, by_shape, choice=False)
        assert words.answer == (needles[1].colour if by_shape else needles[1].shape)
        letters = ask(rng, needles, 1, by_shape, choice=True)
        assert letters.options["ABCD".index(letters.answer)] == words.answer
        assert len(set(letters.options)) == 4 and set(letters.options) <= {*COLOURS, *SHAPES}


def test_the_same_seed_writes_the_same_videos(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_needle_videos(tmp_path / name, videos=1, patches=3, needles=2, questions=2, seed=seed)
    same = [(tmp_path / name / "annotations.jsonl").read_text() for name in "abc"]
    assert same[0] == same[1] != same[2]
    frames = [read_video(tmp_path / n / "needles_000.mp4", lambda n, fps: range(n), lambda f: f)[0] for n in "abc"]
    assert frames[0].shape == (6, 84, 84, 3)
    assert bool((frames[0] == frames[1]).all()) and not bool((frames[0] == frames[2]).all())
    row = json.loads(same[0].splitlines()[0])
    assert set(row) == {"id", "video", "question", "answer", "options", "needle", "moments"}


def test_needles_are_rendered_as_they_always_were():
    """The shipped model was trained on these, and measured numbers are about them."""
    rng = np.random.default_rng([77, 0])
    frames = np.concatenate(list(render(rng, draw_needles(rng, 4, 130), 130)))
    assert hashlib.sha256(frames.tobytes()).hexdigest()[:16] == "13bbae866ed8f027"
