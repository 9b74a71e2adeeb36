"""Losses against the released ones, values and gradients, and what only ours promise."""

import pytest
import torch
from safetensors.torch import load_file

from bench.measure import extra_megabytes
from flexselect import ranking
from flexselect.ranking import hard_rank, soft_rank, spearman, spearman_loss
from flexselect.training.losses import LOSSES, l1_loss, l2_loss, listwise_loss
from tests.processes import server

RELEASED = {"spearman": spearman_loss, "l1": l1_loss, "l2_plus_spearman": l2_loss}
CASES = ("hand5", "l1_equal_entries", "llava_scores_max", "llava_scores_mean", "near_temperature", "perfect")
CASES += ("reversed", "saturated", "small_scale", "ties_in_student")


def plain(x, temperature=1e-4):
    return torch.sigmoid((x[:, None] - x) / temperature).sum(1) - 0.5


def close(found, expected, scale=None):
    scale = float(expected.abs().max()) if scale is None else scale
    assert float((found - expected).abs().max()) <= 1e-5 * max(scale, 1e-30)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", ["", "f64_"])
@pytest.mark.parametrize("name", RELEASED)
def test_released_losses(golden, case, precision, name):
    expected = load_file(golden / "losses" / f"case_{case}.safetensors")
    student, teacher = (
        expected[side][0].to(torch.float64 if precision else torch.float32) for side in ("student", "teacher")
    )
    student = student.requires_grad_()
    loss = RELEASED[name](student, teacher)
    loss.backward()
    close(loss.detach(), expected[f"{precision}{name}_loss"], scale=1.0 if "spearman" in name else None)
    close(student.grad, expected[f"{precision}{name}_grad"][0])


@pytest.mark.parametrize("case", CASES)
def test_released_ranks(golden, case):
    expected = load_file(golden / "losses" / f"case_{case}.safetensors")
    close(soft_rank(expected["student"][0]), expected["softrank"])
    assert torch.equal(hard_rank(expected["teacher"][0]), expected["teacher_rank"].float())


def test_blocks_do_not_matter(monkeypatch):
    x = torch.rand(300, dtype=torch.float64) * 1e-3
    weights = torch.rand(300, dtype=torch.float64)
    result = {}
    for block in (300 * 300, 300 * 7, 1):
        monkeypatch.setattr(ranking, "BLOCK", block)
        leaf = x.clone().requires_grad_()
        ranks = soft_rank(leaf)
        (ranks * weights).sum().backward()
        result[block] = ranks.detach(), leaf.grad
    leaf = x.clone().requires_grad_()
    ranks = plain(leaf)
    (ranks * weights).sum().backward()
    for values, gradients in result.values():
        torch.testing.assert_close(values, ranks.detach())
        torch.testing.assert_close(gradients, leaf.grad)
    assert leaf.grad.abs().max() > 1, "canary"


def test_memory_is_linear():
    """8,000 tokens in pairs would take 256 MB a tensor."""
    extra, pipe = server().Pipe()
    process = server().Process(target=extra_memory, args=[pipe])
    process.start()
    assert extra.recv() < 64
    process.join()


def extra_memory(pipe):
    """In a process of its own: the megabytes that the loss and its gradient take."""
    x = torch.rand(8000, requires_grad=True)
    spearman_loss(x[:50], torch.rand(50)).backward()
    measured = []
    with extra_megabytes(measured):
        spearman_loss(x, torch.rand(8000)).backward()
    pipe.send(measured[0])


def test_a_low_temperature_gives_the_ranks_of_a_sort():
    x = torch.randperm(500).float()
    torch.testing.assert_close(soft_rank(x, temperature=1e-4), hard_rank(x))
    assert not torch.allclose(soft_rank(x, temperature=100.0), hard_rank(x), atol=1), "canary"


def test_spearman_counts_agreement():
    x = torch.rand(100)
    assert spearman(x, x * 3 + 1) == pytest.approx(1) and spearman(x, -x) == pytest.approx(-1)
    assert float(spearman_loss(x, x)) == pytest.approx(0, abs=2e-2)
    assert float(spearman_loss(x, -x)) == pytest.approx(2, abs=2e-2)
    assert abs(float(spearman(torch.rand(5000), torch.rand(5000)))) < 0.1


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_falls_to_the_teacher(name):
    """Descending it orders the best tokens as the teacher does."""
    torch.manual_seed(1)
    teacher = torch.rand(64) * 1e-3
    logits = torch.zeros(64).normal_(std=0.1).sub_(7).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.05)
    first = None
    for _ in range(300):
        loss = LOSSES[name](logits.exp(), teacher)
        first = first or float(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.2 * first
    assert float(spearman(logits.detach(), teacher)) > 0.95


def test_the_listwise_loss_knows_no_scale_and_weighs_what_is_looked_at():
    teacher = torch.rand(50)
    assert float(listwise_loss(teacher * 7, teacher)) == pytest.approx(0, abs=1e-6)
    best, worst = (teacher.clone() for _ in range(2))
    best[teacher.argmax()] *= 0.5
    worst[teacher.argmin()] *= 0.5
    assert listwise_loss(best, teacher) > 10 * listwise_loss(worst, teacher) > 0
    assert bool(listwise_loss(torch.zeros(5), torch.rand(5)).isfinite())


def test_a_batch_is_the_mean_of_its_rows():
    student, teacher = torch.rand(3, 40), torch.rand(3, 40)
    for loss in LOSSES.values():
        rows = torch.stack([loss(one, two) for one, two in zip(student, teacher)])
        torch.testing.assert_close(loss(student, teacher), rows.mean())


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_ranked_in_float32(half):
    x = torch.rand(2000).to(half)
    assert soft_rank(x).dtype == torch.float32
    assert float(soft_rank(x).max()) > 1900


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        soft_rank(torch.rand(3), temperature=0)
    with pytest.raises(ValueError, match=r"student \[3\] and teacher \[4\] must have the same shape"):
        spearman_loss(torch.rand(3), torch.rand(4))
