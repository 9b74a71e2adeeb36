"""Numbers and frames as families take them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flexselect.layout import Layout


def at_least(name: str, least: float, value: Any, default: Any) -> Any:
    """A number as it was given, or its default.

    Raises:
        ValueError: naming it, if it is below `least`.
    """
    value = default if value is None else value
    if not value >= least:
        raise ValueError(f"{name} must be at least {least:g}, got {value}")
    return value


def square(frames: Tensor, side: int) -> Tensor:
    """Resize uint8 frames [T, h, w, 3] to [T, side, side, 3], whatever their aspect ratio, by PIL's bicubic filter."""
    resized = [Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC) for frame in frames.numpy()]
    return torch.from_numpy(np.stack([np.asarray(frame) for frame in resized]))


def plain_positions(layout: Layout) -> Tensor:
    """Positions as any text has them, 0, 1, 2, ...: int64 [1, N]."""
    return torch.arange(len(layout.ids))[None]
