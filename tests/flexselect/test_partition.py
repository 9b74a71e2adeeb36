import pytest
import torch

from flexselect.scoring.frame_sets import frame_sets, split_budget, split_budget_released


@pytest.mark.parametrize(
    ("units", "most", "sizes"),
    [(10, 4, [4, 3, 3]), (64, 64, [64]), (65, 64, [33, 32]), (130, 64, [44, 43, 43]), (512, 64, [64] * 8)],
)
def test_sets_have_the_published_sizes(units, most, sizes):
    assert [len(tokens) for tokens in frame_sets(units, 1, most)] == sizes


def test_small_example_of_interleaving():
    assert [tokens.tolist() for tokens in frame_sets(10, 1, 4)] == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]


@pytest.mark.parametrize(("units", "tokens", "most"), [(1, 1, 1), (7, 3, 2), (130, 5, 64)])
def test_sets_hold_each_token_once(units, tokens, most):
    merged = torch.cat(frame_sets(units, tokens, most))
    assert torch.equal(merged.sort().values, torch.arange(units * tokens))


@pytest.mark.parametrize("sizes", [[80, 60, 60], [1], [7, 7, 6, 6, 6], [5, 1000]])
@pytest.mark.parametrize("budget", [1, 2, 26, 70, 199, 10_000])
def test_budgets_are_exact_and_fit(sizes, budget):
    shares = split_budget(budget, sizes)
    assert sum(shares) == min(budget, sum(sizes))
    assert all(0 <= share <= size for share, size in zip(shares, sizes))


@pytest.mark.parametrize(
    ("tokens", "rounded", "each", "kept"),
    [
        (209, 7106, 888, 7104),
        (220, 7040, 880, 7040),
        (204, 7140, 892, 7136),
        (198, 7128, 891, 7128),
        (196, 7056, 882, 7056),
    ],
)
def test_released_split_of_512_patches(tokens, rounded, each, kept):
    shares = split_budget_released(7040, [64 * tokens] * 8, multiple=tokens)
    assert shares == [each] * 8
    assert sum(shares) == kept <= rounded


def test_released_split_loses_the_remainder_where_exact_does_not():
    assert sum(split_budget_released(500, [80, 80, 80, 80, 80, 80, 80])) == 497
    assert sum(split_budget(500, [80] * 7)) == 500


def test_released_split_is_capped_where_the_released_code_fails():
    assert split_budget_released(300, [80, 60, 60]) == [80, 60, 60]


@pytest.mark.parametrize("split", [split_budget, split_budget_released])
@pytest.mark.parametrize("budget", [0, -5])
def test_a_budget_below_one_is_refused(split, budget):
    with pytest.raises(ValueError, match=f"at least 1 visual token, got {budget}"):
        split(budget, [4, 4])


def test_units_per_set_below_one_is_refused():
    with pytest.raises(ValueError, match="units_per_set must be at least 1, got 0"):
        frame_sets(4, 1, 0)
