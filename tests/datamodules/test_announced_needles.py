import json
from itertools import pairwise

import numpy as np
import pytest

from datamodules.announced_needles import ANNOUNCED, ask_first, draw_announcements, write_announced_videos
from datamodules.needles import COLOURS, MOMENT, SHAPES, render_marks
from datamodules.video import read_video


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("announced")
    kinds = ("colour", "shape", "first")
    file = write_announced_videos(folder, videos=2, patches=64, questions=12, false=7, kinds=kinds)
    return [json.loads(line) for line in file.read_text().splitlines()]


def vivid(frames, colour):
    """Pixels of a colour, noise and all, per frame."""
    return (np.abs(frames.astype(int) - COLOURS[colour]).max(-1) < 40).sum((1, 2))


def test_a_shape_stands_for_a_moment_in_place_of_its_dot():
    for seed in range(12):
        rng = np.random.default_rng(seed)
        (shown,) = draw_announcements(rng, 1, 0, 60)
        frames = np.concatenate(list(render_marks(rng, shown.marks(), 60)))
        y, x = 28 * shown.row, 28 * shown.column
        size = vivid(frames[:, y : y + 28, x : x + 28], shown.colour)
        start = shown.needle.start
        assert np.flatnonzero(size).tolist() == list(range(shown.begin, shown.end))
        assert np.flatnonzero(size > 100).tolist() == list(range(start, start + MOMENT))
        frames[:, y : y + 28, x : x + 28] = 0
        assert not vivid(frames, shown.colour).any()


def test_every_eighth_unit_has_a_dot_or_shape_of_each_announcement():
    assert all(
        {unit % 8 for unit in range(-(-begin // 2), (begin + ANNOUNCED) // 2)} == {*range(8)} for begin in (0, 1)
    )


def test_announcements_do_not_hide_or_contradict_each_other():
    for seed in range(20):
        shown = draw_announcements(np.random.default_rng(seed), 4, 30, 300)
        needles = [one.needle for one in shown[:4]]
        assert len(shown) == 34 and not any(one.needle for one in shown[4:])
        assert len({n.shape for n in needles}) == len({n.colour for n in needles}) == 4
        assert not {n.colour for n in needles} & {one.colour for one in shown[4:]}, (
            "a false dot misleads about no needle"
        )
        ordered = sorted(shown[:4], key=lambda one: one.begin)
        assert all(a.end <= b.begin for a, b in pairwise(ordered)), "which came first has one answer"
        for cell in {(one.row, one.column) for one in shown}:
            there = sorted(one.begin for one in shown if (one.row, one.column) == cell)
            assert all(b - a >= ANNOUNCED for a, b in pairwise(there))
        assert all(one.begin >= 0 and one.end <= 300 for one in shown)


def test_a_video_too_short_is_refused():
    with pytest.raises(ValueError, match="4 announcements one after another take 72 frames, but the video has 71"):
        draw_announcements(np.random.default_rng(0), 4, 0, 71)


def test_which_came_first_is_asked_in_both_orders():
    shown = draw_announcements(np.random.default_rng(0), 3, 0, 100)
    rng, answers = np.random.default_rng(0), []
    for _ in range(20):
        question, other = ask_first(rng, shown, 0)
        assert other != 0
        a, b = shown[0].needle, shown[other].needle
        assert question.question == f"Which came first, {a.colour} or {b.colour}?"
        assert question.answer == (a.colour if a.start < b.start else b.colour)
        answers.append(other)
    assert {*answers} == {1, 2}


def test_rows_say_when_shapes_and_dots_are_visible(rows):
    assert len(rows) == 24 and {row["kind"] for row in rows} == {"colour", "shape", "first"}
    for row in rows:
        assert len(row["moments"]) == len(row["announced"]) == (2 if row["kind"] == "first" else 1)
        for (start, stop), (begin, end) in zip(row["moments"], row["announced"]):
            assert begin <= start and stop <= end and stop - start == MOMENT / 2 and end - begin == ANNOUNCED / 2
        assert row["answer"] in (SHAPES if row["kind"] == "shape" else COLOURS) and row["options"] is None
        assert row["needle"]["start"] / 2 == row["moments"][0][0], "of two, the first"


def test_the_same_seed_writes_the_same_videos(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_announced_videos(tmp_path / name, videos=1, patches=9, needles=1, questions=2, false=1, seed=seed)
    same = [(tmp_path / name / "annotations.jsonl").read_text() for name in "abc"]
    assert same[0] == same[1] != same[2]
    frames = [read_video(tmp_path / n / "announced_000.mp4", lambda n, fps: range(n), lambda f: f)[0] for n in "abc"]
    assert frames[0].shape == (18, 84, 84, 3)
    assert bool((frames[0] == frames[1]).all()) and not bool((frames[0] == frames[2]).all())
