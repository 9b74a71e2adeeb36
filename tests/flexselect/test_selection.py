import pytest
import torch

from flexselect.ranking import recall_at_k
from flexselect.scoring.frame_sets import frame_sets, split_budget
from flexselect.scoring.selection import select


def test_keeps_the_best_of_each_set_in_the_order_of_the_video():
    scores = torch.tensor([0.1, 0.9, 0.8, 0.2, 0.7, 0.3])
    sets = [torch.tensor([0, 2, 4]), torch.tensor([1, 3, 5])]
    assert select(scores, sets, [1, 2]).kept.tolist() == [1, 2, 5]


@pytest.mark.parametrize("budget", [1, 17, 59, 60, 1000])
def test_kept_is_strictly_ascending_and_within_the_budget(budget):
    sets = frame_sets(10, 6, 4)
    selection = select(torch.rand(60), sets, split_budget(budget, [len(s) for s in sets]))
    assert len(selection.kept) == min(budget, 60)
    assert bool((selection.kept.diff() > 0).all())
    assert selection.scores.dtype == torch.float32 and selection.kept.dtype == torch.int64


def test_equal_scores_prefer_the_earlier_token():
    assert select(torch.zeros(6), [torch.arange(6)], [3]).kept.tolist() == [0, 1, 2]


@pytest.mark.parametrize("seed", range(20))
def test_what_is_kept_is_the_beginning_of_a_stable_sort(seed):
    """Many equal scores, sets of two lengths, budgets from 0 to a whole set."""
    generator = torch.Generator().manual_seed(seed)
    sets = frame_sets(11, 5, 4)
    scores = torch.randint(0, 6, (55,), generator=generator) / 5
    budgets = [int(torch.randint(0, len(tokens) + 1, (), generator=generator)) for tokens in sets]
    order = [sorted(tokens.tolist(), key=lambda token: (-float(scores[token]), token)) for tokens in sets]
    expected = sorted(token for tokens, budget in zip(order, budgets) for token in tokens[:budget])
    assert select(scores, sets, budgets).kept.tolist() == expected


def test_a_nan_is_an_error_that_says_what_to_do():
    scores = torch.tensor([0.0, float("nan"), 1.0])
    with pytest.raises(ValueError, match=r"1 of 3 token scores are NaN.*bfloat16 or float32"):
        select(scores, [torch.arange(3)], [1])


def test_recall():
    scores = torch.tensor([0.1, 0.9, 0.8, 0.2])
    assert recall_at_k(scores, torch.tensor([1, 3]), 2) == 0.5
    assert recall_at_k(scores, torch.tensor([1, 2]), 2) == 1.0
    with pytest.raises(ValueError, match="k must be between 1 and the 4"):
        recall_at_k(scores, torch.tensor([1]), 5)
    with pytest.raises(ValueError, match="at least one relevant"):
        recall_at_k(scores, torch.tensor([], dtype=torch.long), 1)
