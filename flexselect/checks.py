"""What is asked for, checked before minutes are spent on it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flexselect.attention import resolve_reduction
from flexselect.choices import check_choice
from flexselect.controls import CONTROLS, is_trained
from flexselect.families.base import VideoFamily
from flexselect.families.loading import read_config


def check_options(
    family: VideoFamily,
    selector: str | None,
    reference_layer: int | None,
    budget: int | None,
    units_per_set: int,
    reduction: str | None,
    dtype: str,
) -> None:
    """Refuse what cannot work before minutes are spent on loading weights.

    Raises:
        ValueError: naming the option, what it was and what it may be.
        FileNotFoundError: no selector at the path that was given.
    """
    check_choice("dtype", dtype, ("bfloat16", "float16", "float32"))
    if selector is not None and "/" not in selector and not Path(selector).is_dir():
        check_choice("selector", selector, ("self", *CONTROLS, "the folder or hub id of one"))
    if is_trained(selector):
        read_config(selector)
    if reference_layer is not None and not 0 <= reference_layer < family.num_layers:
        most = family.num_layers - 1
        raise ValueError(f"reference_layer must be between 0 and {most} for this model, got {reference_layer}")
    if budget is not None and (not isinstance(budget, int) or budget < 1):
        raise ValueError(f"budget must be at least 1 visual token, got {budget!r}")
    if units_per_set < 1:
        raise ValueError(f"units_per_set must be at least 1, got {units_per_set}")
    resolve_reduction(reduction or "max")


def check_cache(folder: str, most_gb: float) -> None:
    """Refuse a feature cache that cannot be written, or has no room.

    Raises:
        ValueError: naming the option and the reason.
    """
    if most_gb <= 0:
        raise ValueError(f"feature_cache_gb must be above 0, got {most_gb}")
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tried = Path(folder) / f".writable-{os.getpid()}"
        tried.touch()
        tried.unlink()
    except OSError as error:
        raise ValueError(f"feature_cache {folder} cannot be written: {error.strerror}") from error


def checked_frames(video: Tensor | np.ndarray) -> Tensor:
    """Frames as a tensor uint8 [T, h, w, 3]."""
    if not isinstance(video, (Tensor, np.ndarray)):
        raise ValueError(f"a video is a path, or frames as a tensor or array; got {type(video).__name__}")
    frames = torch.as_tensor(video)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != torch.uint8 or not len(frames):
        raise ValueError(f"frames must be uint8 [T, h, w, 3], T >= 1; got {frames.dtype} {list(frames.shape)}")
    return frames


def checked_question(question: Any) -> str:
    """A question in words."""
    if not isinstance(question, str) or not question.strip():
        raise ValueError("the question is empty")
    return question


def checked_seconds(seconds: Tensor | Sequence[float], count: int) -> Tensor:
    """Times of `count` frames, float64 [count]."""
    times = torch.as_tensor(seconds, dtype=torch.float64)
    if times.shape != (count,) or not bool(times.isfinite().all() and (times.diff() >= 0).all()):
        raise ValueError(f"seconds must be {count} finite numbers in ascending order, one a frame")
    return times
