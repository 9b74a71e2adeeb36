"""A value that must be one of a few."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a value that is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_place(keep_on: str | None) -> None:
    """Refuse a place to keep things that is neither "disk" nor a device of this machine."""
    if keep_on in (None, "disk"):
        return
    try:
        kind = torch.device(keep_on).type
    except (RuntimeError, TypeError):
        kind = None
    if kind in (None, "meta"):
        raise ValueError(f'keep_on must be a device, such as "cpu" or "cuda:0", or "disk"; got {keep_on!r}')
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f'keep_on={keep_on!r}: this machine has no such GPU; "cpu" and "disk" keep off the GPU')
