"""Extra memory and time of the Spearman loss, forward and backward, compared with the plain pairwise formula.

    python -m bench.loss

The plain formula takes 6 GB at 28,672 tokens. It is left out if the machine has less free memory.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from bench.measure import alone, write_result
from flexselect.ranking import hard_rank, spearman_loss
from flexselect.training.losses import silog_loss

TOKENS = (3072, 7168, 14336, 28672)
PLAIN_TENSORS = 3  # most [n, n] tensors that are alive at once


def plain_loss(student: Tensor, teacher: Tensor, temperature: float = 1e-4) -> Tensor:
    """Compute the loss of section 3.3 of the paper literally, with all pairs at once."""
    soft = torch.sigmoid((student[:, None] - student) / temperature).sum(1) - 0.5
    soft, hard = (ranks - ranks.mean() for ranks in (soft, hard_rank(teacher)))
    return 1 - (soft / soft.norm() * (hard / hard.norm())).sum()


def loss_and_gradient(loss: Tensor, student: Tensor) -> Tensor:
    """Run the backward pass; return the loss and the gradient in one tensor [1 + n]."""
    (grad,) = torch.autograd.grad(loss, student)
    return torch.cat([loss[None], grad])


def plain(student: Tensor, teacher: Tensor) -> Tensor:
    """Run the plain pairwise formula forward and backward."""
    return loss_and_gradient(plain_loss(student, teacher), student)


def spearman(student: Tensor, teacher: Tensor) -> Tensor:
    """Run the project's Spearman loss forward and backward."""
    return loss_and_gradient(spearman_loss(student, teacher), student)


def silog(student: Tensor, teacher: Tensor) -> Tensor:
    """Run the default loss forward and backward; its time is linear in the number of tokens."""
    return loss_and_gradient(silog_loss(student, teacher), student)


def inputs(tokens: int) -> tuple[Tensor, Tensor]:
    """Make scores of student and teacher that resemble attention: most are small and close together."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.rand(tokens, generator=generator) ** 4 * 0.01 for _ in range(2))
    return student.requires_grad_(), teacher


def free_megabytes() -> float:
    """Return the free memory of the machine in megabytes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) / 1024


def main() -> None:
    """Print the table and write it as JSON."""
    rows = []
    heads = ("plain MB", "ours MB", "plain s", "ours s", "silog s", "time ratio", "max |difference|")
    print(f"{'tokens':>7} " + " ".join(f"{head:>{max(9, len(head))}}" for head in heads))
    for tokens in TOKENS:
        row: dict = {"tokens": tokens}
        row["ours_mb"], row["ours_s"], actual = alone(spearman, inputs, tokens, 512)
        row["silog_mb"], row["silog_s"], _ = alone(silog, inputs, tokens, 512)
        if PLAIN_TENSORS * 4 * tokens**2 / 2**20 < free_megabytes():
            row["plain_mb"], row["plain_s"], expected = alone(plain, inputs, tokens, 512)
            row["difference"] = float(abs(actual - expected).max() / abs(expected).max())
            shown = f"{row['plain_mb']:9.0f} {row['ours_mb']:9.1f} {row['plain_s']:9.3f} {row['ours_s']:9.3f} "
            shown += f"{row['silog_s']:9.4f} {row['ours_s'] / row['plain_s']:10.2f} {row['difference']:16.1e}"
        else:
            shown = f"{'not free':>9} {row['ours_mb']:9.1f} {'':9} {row['ours_s']:9.3f} {row['silog_s']:9.4f}"
        print(f"{tokens:7} {shown}", flush=True)
        rows.append(row)
    write_result("loss", {"loss": "spearman, forward and backward, float32"}, rows)


if __name__ == "__main__":
    main()
