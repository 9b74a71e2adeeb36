"""The choice of cheap frames, beside all choices there are."""

import itertools

import numpy as np
import pytest

from datamodules.video_files.cheap_frames import DecodingCosts, choose_cheap_frames


def random_costs(rng, count):
    """Groups of a few frames, some of which no other is built on; decoded in another order than shown."""
    keys = {0, *rng.integers(0, count, rng.integers(0, 4)).tolist()}
    groups = np.cumsum([i in keys for i in range(count)]) - 1
    references, extra = np.zeros(count, int), rng.integers(0, 2, count)
    for group in range(groups[-1] + 1):
        (frames,) = np.nonzero(groups == group)
        order = [frames[0], *(frames[1:][np.argsort(np.arange(1, len(frames)) + rng.uniform(0, 3, len(frames) - 1))])]
        extra[frames[0]] = 0
        references[order] = np.cumsum(1 - extra[order])
    return DecodingCosts(groups, references, extra)


def every_choice(wanted, seconds, tolerance, count):
    """All ascending choices within the tolerance that stay between the wanted frames before and after."""
    bounds = [-1, *wanted, count]
    windows = [
        [f for f in range(a + 1, b) if abs(seconds[f] - seconds[w]) <= tolerance + 1e-9]
        for a, w, b in zip(bounds, wanted, bounds[2:])
    ]
    return [c for c in itertools.product(*windows) if all(x < y for x, y in itertools.pairwise(c))]


def plain_cost(costs, frames):
    """Frames that are decoded, counted one by one."""
    total = 0
    for group in {costs.groups[f] for f in frames}:
        total += max(costs.references[f] for f in frames if costs.groups[f] == group)
    return total + sum(costs.extra[f] for f in frames)


@pytest.mark.parametrize("seed", range(150))
def test_no_choice_decodes_less_or_moves_less(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 15))
    costs = random_costs(rng, count)
    seconds = np.cumsum(rng.integers(1, 4, count)) / 2
    wanted = sorted(rng.choice(count, rng.integers(1, min(count, 5) + 1), replace=False).tolist())
    tolerance = float(rng.choice([0, 0.5, 1, 2, 4, 100]))
    chosen = choose_cheap_frames(wanted, seconds, tolerance, costs)

    def value(frames):
        return plain_cost(costs, frames), round(sum(abs(seconds[f] - seconds[w]) for f, w in zip(frames, wanted)), 6)

    choices = every_choice(wanted, seconds, tolerance, count)
    assert tuple(chosen) in choices and value(chosen) == min(map(value, choices))
    assert costs.decoded(chosen) == plain_cost(costs, chosen) <= costs.decoded(wanted)


def evenly(count, keys, pattern="0"):
    """Costs of frames with a key frame every `keys`; `pattern` says of which frames others are built (0) or not (1)."""
    groups = np.arange(count) // keys
    extra = np.array([int(pattern[i % keys % len(pattern)]) for i in range(count)])
    references = np.concatenate([np.cumsum(1 - extra[i : i + keys]) for i in range(0, count, keys)])
    return DecodingCosts(groups, references, extra)


def test_a_key_frame_is_taken_if_one_is_near():
    seconds, wanted = np.arange(600) / 10, [7, 38, 83, 119, 151]
    assert choose_cheap_frames(wanted, seconds, 2.0, evenly(600, 40)) == [0, 40, 80, 120, 160]
    assert choose_cheap_frames(wanted, seconds, 0.0, evenly(600, 40)) == wanted


def test_key_frames_rarer_than_the_wanted_ones_are_taken_once():
    """The others take the frames that cost least then, and none reaches a wanted frame beside it."""
    seconds, wanted, costs = np.arange(300) / 10, list(range(0, 300, 60)), evenly(300, 100)
    assert choose_cheap_frames(wanted, seconds, 5.9, costs) == [0, 100, 101, 200, 201]
    assert choose_cheap_frames(wanted, seconds, 1e9, costs) == [0, 100, 101, 200, 201]
    assert (costs.decoded([0, 100, 101, 200, 201]), costs.decoded(wanted)) == (5, 61 + 81 + 41)


def test_a_part_of_the_video_keeps_to_itself():
    seconds = np.arange(100) / 10
    assert choose_cheap_frames([45, 55], seconds, 5.0, evenly(100, 20), 41, 59) == [45, 46]
    assert choose_cheap_frames([45, 55], seconds, 5.0, evenly(100, 20)) == [40, 60], "canary: key frames around it"


def test_a_long_video_is_chosen_from_quickly():
    """Whatever the distance of key frames: all windows of one group, and thousands of groups."""
    seconds = np.arange(108_000) / 30
    wanted = np.linspace(0, 107_999, 1024).round().astype(int).tolist()
    for keys in (60, 250, 108_000):
        costs = evenly(108_000, keys, "0101")
        for tolerance in (0.25, 1.76, 4.0):
            chosen = choose_cheap_frames(wanted, seconds, tolerance, costs)
            assert len(set(chosen)) == 1024 and costs.decoded(chosen) <= costs.decoded(wanted)
