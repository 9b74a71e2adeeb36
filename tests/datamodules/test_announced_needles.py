import json
from itertools import pairwise

import numpy as np
import pytest

from datamodules.announced_needles import (
    ANNOUNCED,
    HARD,
    NUMBERS,
    Difficulty,
    ask_first,
    draw_announcements,
    draw_coarse_clip,
    write_announced_videos,
)
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


def test_a_hard_shape_is_short_and_covers_a_quarter_of_its_cell():
    areas = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        (shown,) = draw_announcements(rng, 1, 0, 60, how=HARD)
        frames = np.concatenate(list(render_marks(rng, shown.marks(), 60)))
        size = vivid(frames, shown.colour)
        start = shown.needle.start
        assert size[start] != size[start + 1] or shown.needle.shape == "cross"
        assert np.flatnonzero(size).tolist() == list(range(shown.begin, shown.end))
        others = {size[i] for i in range(shown.begin, shown.end) if i != start}
        assert max(others) - min(others) < 5, "all others show the dot"
        areas += [size[start]] if shown.needle.shape == "circle" else []
    assert areas and all(abs(area - 28 * 28 / 4) < 20 for area in areas)


def test_false_announcements_may_have_the_colours_of_shapes():
    for seed in range(5):
        shown = draw_announcements(np.random.default_rng(seed), 4, 20, 300, how=HARD)
        assert {one.colour for one in shown[4:]} <= {one.colour for one in shown[:4]}


def test_shapes_of_a_colour_are_counted(tmp_path):
    how = Difficulty(repeated=True)
    file = write_announced_videos(tmp_path, 4, 64, 6, 12, false=2, kinds=("count", "colour"), how=how)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    counts = [row for row in rows if row["kind"] == "count"]
    assert len(counts) == 24 and {row["answer"] for row in counts} == {*NUMBERS}
    for row in counts:
        assert row["question"] == f"How many shapes are {row['needle']['colour']}?"
        assert len(row["moments"]) == len(row["announced"]) == NUMBERS.index(row["answer"]) + 1
        same = [r for r in rows if r["video"] == row["video"] and r["kind"] == "colour"]
        assert sum(r["answer"] == row["needle"]["colour"] for r in same) == len(row["moments"])


@pytest.mark.parametrize(
    ("how", "kinds"),
    [(Difficulty(repeated=True), ["shape"]), (Difficulty(repeated=True), ["first"]), (HARD, ["first"])],
)
def test_questions_with_several_answers_are_refused(how, kinds, tmp_path):
    with pytest.raises(ValueError, match=r"ask for colour and count|do not ask for it"):
        write_announced_videos(tmp_path / "a", kinds=kinds, how=how)
    assert not (tmp_path / "a").exists()


def test_times_follow_the_frame_rate(tmp_path):
    file = write_announced_videos(tmp_path, 1, 64, 2, 2, false=0, how=HARD, fps=3)
    row = json.loads(file.read_text().splitlines()[0])
    assert row["moments"] == [
        [pytest.approx(row["needle"]["start"] / 3), pytest.approx((row["needle"]["start"] + 1) / 3)]
    ]
    assert row["announced"][0][1] - row["announced"][0][0] == pytest.approx(6)
    _, facts = read_video(tmp_path / "announced_000.mp4", lambda n, fps: range(n), lambda f: f)
    assert facts[-1] == pytest.approx(127 / 3, abs=0.01)


def test_a_first_look_sees_one_unit_of_each_announcement():
    for seed in range(8):
        shown = draw_coarse_clip(np.random.default_rng(seed), 6, 16, 0.5, repeated=seed % 2 == 1)
        assert all(one.end - one.begin == 1 and one.end <= 16 for one in shown)
        assert len({one.begin for one in shown}) == 6
        assert all(one.needle is None or one.needle.start == one.begin for one in shown)
        assert (len({one.colour for one in shown}) == 6) == (seed % 2 == 0)


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
