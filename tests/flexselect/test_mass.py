"""Budgets by mass: how frame sets share K by what stands out, and how few tokens carry a share of it."""

import json
import re
from itertools import pairwise

import pytest
import torch

import cli
from flexselect import FlexSelect
from flexselect.families import family_of
from flexselect.scoring.controls import UniformScorer
from flexselect.scoring.frame_sets import frame_sets, split_budget, split_budget_released
from flexselect.scoring.mass import above_background, fewest_with_mass, masses_of, set_budgets, split_by_mass
from flexselect.scoring.selection import select
from lightning_modules.video_qa import VideoQA
from tests import tiny

DEMO, SELECTOR = "checkpoints/demo/video_llm", "checkpoints/demo/selector"
QUESTIONS = ("What colour is the circle?", "Which shape is red?", "Why?")


def scored(units=30, per_unit=5, most=8, hot=(), seed=0, scale=None):
    """Scores of a quiet background and its frame sets, with a factor of 30 at the tokens `hot`."""
    noise = torch.rand(units * per_unit, generator=torch.Generator().manual_seed(seed))
    scores = 1e-3 * (1 + 0.2 * noise)
    scores[list(hot)] *= 30
    sets = frame_sets(units, per_unit, most)
    for number, tokens in enumerate(sets):
        scores[tokens] *= 1 if scale is None else scale[number]
    return scores, sets


def sizes(sets):
    return [len(tokens) for tokens in sets]


@pytest.mark.parametrize("split", ["exact", "mass"])
@pytest.mark.parametrize("share", [None, 0.5, 1.0])
@pytest.mark.parametrize("budget", [1, 2, 7, 40, 149, 150, 10_000])
@pytest.mark.parametrize("kind", ["noise", "peaks", "ties", "equal", "zeros", "logits"])
def test_budgets_fit(kind, budget, share, split):
    scores, sets = scored(hot=(3, 4, 5, 77) if kind == "peaks" else ())
    scores = {
        "ties": (scores * 2e4).round(),
        "equal": torch.full_like(scores, 0.2),
        "zeros": torch.zeros_like(scores),
        "logits": scores.log() + 5,
    }.get(kind, scores)
    budgets = set_budgets(scores, sets, budget, 1, split, share)
    most = min(budget, len(scores))
    assert all(0 <= count <= size for count, size in zip(budgets, sizes(sets)))
    assert -(-most // 4) <= sum(budgets) <= most and (share or sum(budgets) == most)
    assert budgets == set_budgets(scores, sets, budget, 1, split, share), "deterministic"
    assert len(select(scores, sets, budgets).kept) == sum(budgets)


@pytest.mark.parametrize("share", [None, 0.3, 1.0])
@pytest.mark.parametrize("value", [0.0, 0.2, -3.0])
def test_equal_scores_are_split_as_if_there_were_none(value, share):
    _, sets = scored()
    for budget in (1, 13, 149):
        expected = split_budget(budget, sizes(sets))
        assert set_budgets(torch.full((150,), value), sets, budget, 1, "mass", share) == expected


def test_the_published_rules_need_no_scores():
    scores, sets = scored(hot=(3, 4, 5))
    for budget in (1, 17, 90):
        assert set_budgets(scores, sets, budget, 1, "exact", None) == split_budget(budget, sizes(sets))
        assert set_budgets(scores, sets, budget, 5, "released", None) == split_budget_released(budget, sizes(sets), 5)


def test_sets_share_by_what_stands_out_of_each():
    """Eight of ten high scores lie in one set; the scale of a set's scores means nothing."""
    units = [0, 4, 8, 12, 16, 20, 24, 28, 1, 2]  # sets 0, 0, ... and 1, 2
    hot = [unit * 5 for unit in units]
    for scale in (None, (1, 1000, 0.01, 5)):
        scores, sets = scored(hot=hot, scale=scale)
        assert len(sets) == 4
        assert split_by_mass(10, masses_of(scores, sets), sets) == [8, 1, 1, 0]
        assert select(scores, sets, [8, 1, 1, 0]).kept.tolist() == sorted(hot)
        assert set_budgets(scores, sets, 10, 1, "mass", None) == [8, 1, 1, 0]
    raw = scores.sort(descending=True).indices[:10].tolist()
    assert set(raw) != set(hot), "canary: raw scores point to the set with the largest"
    assert split_budget(10, sizes(sets)) == [3, 3, 2, 2]


def test_what_no_token_with_mass_takes_is_split_by_size():
    masses, sets = torch.zeros(150, dtype=torch.float64), scored()[1]
    masses[sets[2][:3]] = torch.tensor([5.0, 1.0, 3.0]).double()
    assert split_by_mass(2, masses, sets) == [0, 0, 2, 0]
    counts = split_by_mass(40, masses, sets)
    assert sum(counts) == 40 and max(counts) == counts[2] and min(counts) >= 9
    masses[sets[2]] = 1.0
    assert split_by_mass(60, masses, sets)[2] == len(sets[2]), "a set has no more than it has"


def test_the_fewest_tokens_that_carry_a_share():
    masses = torch.zeros(100, dtype=torch.float64)
    masses[[7, 50, 51, 99]] = torch.tensor([4.0, 3.0, 2.0, 1.0]).double()
    wanted = {0.01: 1, 0.4: 1, 0.41: 2, 0.7: 2, 0.9: 3, 0.91: 4, 1.0: 4}
    assert {share: fewest_with_mass(4, masses, share) for share in wanted} == wanted
    assert fewest_with_mass(18, masses, 0.4) == 5, "at least a quarter of K"
    assert fewest_with_mass(3, masses, 1.0) == 3, "at most K"
    assert fewest_with_mass(40, torch.zeros(100), 0.4) == 40, "nothing stands out: K"


def test_a_larger_share_never_keeps_less():
    for seed in range(5):
        scores, sets = scored(hot=(3, 80, 81, 140), seed=seed)
        kept = [
            set(select(scores, sets, set_budgets(scores, sets, 60, 1, "exact", share)).kept.tolist())
            for share in (0.1, 0.5, 0.9, 0.99)
        ]
        assert all(fewer <= more for fewer, more in pairwise(kept))
        assert {3, 80, 81, 140} <= kept[2] and len(kept[2]) < 60


def test_a_question_that_needs_all_of_k_keeps_what_it_does_without():
    scores, sets = scored(hot=range(0, 150, 6))
    for split in ("exact", "mass"):
        without = set_budgets(scores, sets, 10, 1, split, None)
        assert set_budgets(scores, sets, 10, 1, split, 1.0) == without and sum(without) == 10


def test_the_background_of_each_set_is_its_own():
    scores, sets = scored(hot=(3,))
    distance, ratio = above_background(scores, sets)
    assert int(distance.argmax()) == int(ratio.argmax()) == 3
    for tokens in sets:
        assert abs(float(ratio[tokens].median())) < 1e-9
    assert bool((masses_of(scores, sets) > 0).sum() < 15) and float(masses_of(scores, sets)[3]) > 20


def test_a_nan_is_refused_before_anything_is_counted():
    scores, sets = scored()
    scores[4] = float("nan")
    with pytest.raises(ValueError, match="1 of 150 token scores are NaN"):
        set_budgets(scores, sets, 10, 1, "mass", None)


# -- in the engine


@pytest.fixture
def session(load):
    """`session(**options)`: a video of two frame sets or more in each family."""

    def open_with(**options):
        fs = load(selector="self", budget=16, units_per_set=2, **options)
        return fs.open(tiny.frames(8, 56, 84), range(8))

    return open_with


def test_without_the_options_everything_is_as_before(session):
    opened = session()
    selection = opened.select(QUESTIONS[0])
    assert len(selection.sets) > 1
    before = select(selection.scores, selection.sets, split_budget(16, sizes(selection.sets)))
    assert torch.equal(selection.kept, before.kept)


def test_each_question_keeps_as_many_as_its_scores_say(session):
    """Scores of a random model; one question at a time, in a batch, with a ceiling of its own, and proven."""
    plain, by_mass = session(), session(budget_mass=0.4)
    answers = by_mass.ask_all(QUESTIONS, max_new_tokens=2)
    for question, answer in zip(QUESTIONS, answers):
        scores = plain.select(question).scores
        selection = answer.selection
        expected = set_budgets(selection.scores, selection.sets, 16, 1, "exact", 0.4)
        assert torch.allclose(selection.scores, scores, atol=1e-5)
        assert answer.num_kept_tokens == len(selection.kept) == sum(expected) and 4 <= sum(expected) <= 16
        assert torch.equal(selection.kept, select(selection.scores, selection.sets, expected).kept)
        alone = by_mass.ask(question, max_new_tokens=2)
        assert (alone.text, alone.num_kept_tokens) == (answer.text, answer.num_kept_tokens)
        assert by_mass.ask(question, max_new_tokens=2, budget=3).num_kept_tokens <= 3
        assert by_mass.ask(question, max_new_tokens=2, budget=1).num_kept_tokens == 1
        proven = by_mass.ask(question, max_new_tokens=2, verify=True)
        assert proven.verification is not None and proven.num_kept_tokens == answer.num_kept_tokens
    many = by_mass.ask_all(QUESTIONS, max_new_tokens=1, budget=10_000)
    assert any(answer.num_kept_tokens < answer.num_visual_tokens for answer in many), "canary"


def test_frame_sets_share_by_mass(session):
    selection = session(budget_split="mass").select(QUESTIONS[0])
    expected = set_budgets(selection.scores, selection.sets, 16, 1, "mass", None)
    assert len(selection.kept) == 16
    assert torch.equal(selection.kept, select(selection.scores, selection.sets, expected).kept)


def test_a_model_says_that_its_budget_is_a_ceiling(load):
    assert "at most 16 tokens" in repr(load(selector="self", budget=16, budget_mass=0.9))


@pytest.mark.parametrize("option", [{"budget_mass": 0.9}, {"budget_split": "mass"}])
def test_controls_and_dense_have_no_mass(checkpoint, option):
    said = re.escape(f"{next(iter(option))}={next(iter(option.values()))} needs scores that point to moments")
    family = family_of(str(checkpoint))
    for selector in (None, "uniform", "random"):
        with pytest.raises(ValueError, match=rf"{said}: selector=self or a trained one, got {selector!r}"):
            FlexSelect.from_pretrained(str(checkpoint), selector=selector, dtype="float32", **option)
        with pytest.raises(ValueError, match=said):
            VideoQA(family, selector=selector, **option)
    fs = FlexSelect.from_pretrained(str(checkpoint), selector="self", dtype="float32", **option)
    control = fs.with_scorer(UniformScorer())
    with pytest.raises(ValueError, match=said):
        control.open(tiny.frames(4)).ask("Why?")
    assert fs.with_scorer(None).open(tiny.frames(4)).ask("Why?", max_new_tokens=1).selection is None


def test_the_released_split_keeps_what_the_released_code_keeps(checkpoint):
    with pytest.raises(ValueError, match="budget_mass is not for budget_split=released"):
        FlexSelect.from_pretrained(str(checkpoint), selector="self", budget_mass=0.9, budget_split="released")


@pytest.mark.parametrize("selector", ["self", SELECTOR])
def test_an_easy_question_is_answered_from_fewer_tokens(selector, tmp_path_factory):
    """The demo's model: what it knows, it answers from a part of its budget."""
    from datamodules.needles import write_needle_videos

    file = write_needle_videos(tmp_path_factory.getbasetemp() / "mass", videos=1, patches=64, questions=4, seed=3)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    fs = FlexSelect.from_pretrained(DEMO, selector=selector, dtype="float32", device="cpu", budget_mass=0.9)
    opened = fs.open(file.parent / rows[0]["video"], progress=False)
    answers = opened.ask_all([row["question"] for row in rows], 4, [row["options"] or () for row in rows])
    told = [answer.option.letter if answer.option else answer.text for answer in answers]
    assert told == [row["answer"] for row in rows]
    assert max(answer.num_kept_tokens for answer in answers) < fs.budget


def test_on_the_command_line(tmp_path, videos):
    words = ["predict", "--config", "configs/demo/self.yaml", "--data.video_root", str(videos)]
    words += ["--data.annotations", str(videos / "annotations.jsonl"), "--data.num_workers", "0"]
    kept, settings = {}, {}
    for name, more in {"plain": [], "mass": ["--model.budget_mass", "0.5"]}.items():
        out = tmp_path / name
        assert cli.main([*words, "--model.budget", "24", *more, "--output_dir", str(out)]) == 0
        rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
        kept[name] = [row["num_kept_tokens"] for row in rows]
        settings[name] = (out / "settings.json").read_text()
    assert set(kept["plain"]) == {24} and all(6 <= count <= 24 for count in kept["mass"]) and min(kept["mass"]) < 24
    assert "budget_mass" in settings["mass"] and "budget_mass" not in settings["plain"]
