"""When numbers are equal to the last bit, and when they are near."""

import torch


def assert_near(found, expected):
    """Equal but for rounding.

    For the same operations on tensors that lie elsewhere in memory (read from a file, brought in by accelerate, written
    in another layout): on some processors a matrix product sums in an order that depends on how its operands are
    aligned. The largest difference seen was 4.8e-7 on logits of about 1; what is wrong is off by 1e-2 and more here.
    """
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def assert_near_stored(found, expected):
    """The same for scores as a store has them, float16: where rounding differs, one of their last digits does."""
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=2**-10)
