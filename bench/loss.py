"""The Spearman loss beside the plain pairwise one, forward and backward: extra memory and time.

    python -m bench.loss

The plain one takes 6 GB at 28,672 tokens; it is left out where so much is not free.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from bench.measure import alone, write_result
from flexselect.ranking import hard_rank, spearman_loss
from flexselect.training.losses import silog_loss

TOKENS = (3072, 7168, 14336, 28672)
PLAIN_TENSORS = 3  # [n, n] that live at once, at most


def plain_loss(student: Tensor, teacher: Tensor, temperature: float = 1e-4) -> Tensor:
    """Section 3.3 of the paper, written down: all pairs at once."""
    soft = torch.sigmoid((student[:, None] - student) / temperature).sum(1) - 0.5
    soft, hard = (ranks - ranks.mean() for ranks in (soft, hard_rank(teacher)))
    return 1 - (soft / soft.norm() * (hard / hard.norm())).sum()


def step(loss: Tensor, student: Tensor) -> Tensor:
    """Backward; the loss and the gradient in one."""
    (grad,) = torch.autograd.grad(loss, student)
    return torch.cat([loss[None], grad])


def plain(student: Tensor, teacher: Tensor) -> Tensor:
    """Forward and backward."""
    return step(plain_loss(student, teacher), student)


def ours(student: Tensor, teacher: Tensor) -> Tensor:
    """Forward and backward."""
    return step(spearman_loss(student, teacher), student)


def silog(student: Tensor, teacher: Tensor) -> Tensor:
    """Forward and backward of the default loss, linear in time too."""
    return step(silog_loss(student, teacher), student)


def inputs(tokens: int) -> tuple[Tensor, Tensor]:
    """Scores as attention has them: most are small and close together."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.rand(tokens, generator=generator) ** 4 * 0.01 for _ in range(2))
    return student.requires_grad_(), teacher


def free_megabytes() -> float:
    """Of the machine."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) / 1024


def main() -> None:
    """Print the table and write it as JSON."""
    rows = []
    heads = ("plain MB", "ours MB", "plain s", "ours s", "silog s", "time ratio", "max |difference|")
    print(f"{'tokens':>7} " + " ".join(f"{head:>{max(9, len(head))}}" for head in heads))
    for tokens in TOKENS:
        row: dict = {"tokens": tokens}
        row["ours_mb"], row["ours_s"], result = alone(ours, inputs, tokens, 512)
        row["silog_mb"], row["silog_s"], _ = alone(silog, inputs, tokens, 512)
        if PLAIN_TENSORS * 4 * tokens**2 / 2**20 < free_megabytes():
            row["plain_mb"], row["plain_s"], expected = alone(plain, inputs, tokens, 512)
            row["difference"] = float(abs(result - expected).max() / abs(expected).max())
            shown = f"{row['plain_mb']:9.0f} {row['ours_mb']:9.1f} {row['plain_s']:9.3f} {row['ours_s']:9.3f} "
            shown += f"{row['silog_s']:9.4f} {row['ours_s'] / row['plain_s']:10.2f} {row['difference']:16.1e}"
        else:
            shown = f"{'not free':>9} {row['ours_mb']:9.1f} {'':9} {row['ours_s']:9.3f} {row['silog_s']:9.4f}"
        print(f"{tokens:7} {shown}", flush=True)
        rows.append(row)
    write_result("loss", {"loss": "spearman, forward and backward, float32"}, rows)


if __name__ == "__main__":
    main()
