"""Checks of input, with messages, before any long work begins."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flexselect.nearest import did_you_mean

OWN_ENGINE = "transformers"  # the engine that needs no other package
LOOKS = (  # options that need `cost`
    "first_look_share",
    "first_look_shrink",
    "first_look_layer",
    "second_look_area",
    "second_look_gb",
)


class EngineLostError(RuntimeError):
    """The answer engine does not answer any more."""


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a value that is not one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_integer(name: str, value: Any) -> None:
    """Refuse a value that is not an integer.

    Raises:
        ValueError: naming the option and the value.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{name} must be an integer, got {value!r}")


def check_at_least(name: str, value: Any, least: int, unit: str = "") -> None:
    """Refuse a value that is not an integer of at least `least`.

    Raises:
        ValueError: naming the option and the value.
    """
    check_integer(name, value)
    if value < least:
        raise ValueError(f"{name} must be at least {least}{unit}, got {value!r}")


def check_budget_mass(share: Any, split: str) -> None:
    """Refuse a share of the scores' mass that is none, and one beside the split of the released code.

    Raises:
        ValueError: naming the option and the value.
    """
    if share is None:
        return
    if not _is_above_0(share, 1):
        raise ValueError(f"budget_mass must be a number above 0 and up to 1, got {share!r}")
    if split == "released":
        raise ValueError("budget_mass is not for budget_split=released, which keeps what the released code keeps")


def _is_above_0(value: Any, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= most


def check_known(names: Iterable[str], known: Sequence[str], caller: str) -> None:
    """Refuse an unknown option.

    Args:
        names: names of options.
        known: names of all options that exist.
        caller: the function or verb that takes the options, for the message.

    Raises:
        ValueError: naming the first unknown name, the nearest known name, and all known names.
    """
    for name in names:
        if name not in known:
            hint = f"{did_you_mean(name, known)} ".removeprefix("; ").lstrip()
            raise ValueError(f"{caller} has no option {name}; {hint}There are {', '.join(known)}")


def check_place(keep_on: str | None) -> None:
    """Refuse a `keep_on` that is neither "disk" nor a device of this machine."""
    if keep_on != "disk":
        check_device("keep_on", keep_on, ("disk",))


def check_device(name: str, device: Any, others: Sequence[str] = ()) -> None:
    """Refuse a value that is not a device of this machine.

    Args:
        name: the option.
        device: its value; None: the default.
        others: other values that it may have, for the message.
    """
    if device is None:
        return
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError):
        kind = None
    if kind in (None, "meta"):
        choices = ", ".join(["cpu", "cuda:0", *others])
        raise ValueError(f"{name} must be a device, one of {choices} and the like; got {device!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{name}={device!r}: this machine has no such GPU; choose {' or '.join(['cpu', *others])}")


def check_cache(folder: str, max_gb: float) -> None:
    """Refuse a feature cache whose folder cannot be written, or whose size is not above 0.

    Raises:
        ValueError: naming the option and the reason.
    """
    if max_gb <= 0:
        raise ValueError(f"feature_cache_gb must be above 0, got {max_gb}")
    nearest = next(place for place in (Path(folder), *Path(folder).absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise ValueError(f"feature_cache {folder} cannot be written: {nearest} is no folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"feature_cache {folder} cannot be written: permission denied at {nearest}")


Frames = Tensor | np.ndarray | Iterable[Tensor | np.ndarray | Image.Image]  # uint8 [T, h, w, 3], or one after another


def checked_frames(video: Frames) -> Tensor:
    """Return frames as a tensor, uint8 [T, h, w, 3]; refuse any other shape or dtype.

    Args:
        video: a tensor or array; or a list or generator of frames, each a tensor, an array [h, w, 3] or a PIL image.
    """
    if isinstance(video, Tensor | np.ndarray):
        frames = torch.as_tensor(video)
    elif isinstance(video, Iterable) and not isinstance(video, bytes | Mapping):
        frames = _stacked([_checked_frame(frame, number) for number, frame in enumerate(video)])
    else:
        raise ValueError(f"a video is a path, or frames; got {type(video).__name__}")
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != torch.uint8 or not len(frames):
        raise ValueError(f"frames must be uint8 [T, h, w, 3], T >= 1; got {frames.dtype} {list(frames.shape)}")
    return frames


def _checked_frame(frame: Any, number: int) -> Tensor:
    """Return one frame of a list as a tensor."""
    if isinstance(frame, Image.Image):
        return torch.from_numpy(np.array(frame.convert("RGB")))
    if not isinstance(frame, Tensor | np.ndarray):
        kind = type(frame).__name__
        raise ValueError(f"frame {number} is {kind}: a frame is uint8 [h, w, 3], as a tensor, an array or a PIL image")
    return torch.as_tensor(frame)


def _stacked(frames: Sequence[Tensor]) -> Tensor:
    """Stack frames of one size and dtype."""
    for number, frame in enumerate(frames):
        if frame.shape != frames[0].shape or frame.dtype != frames[0].dtype:
            kinds = [f"{other.dtype} {list(other.shape)}" for other in (frames[0], frame)]
            raise ValueError(f"frames must have one size: frame 0 is {kinds[0]}, frame {number} is {kinds[1]}")
    if not frames:
        raise ValueError("there are no frames")
    return torch.stack(list(frames))


def checked_question(question: Any) -> str:
    """Return the question; refuse one that is empty or not a string."""
    if not isinstance(question, str):
        several = ": use ask_all for several" if isinstance(question, list | tuple) else ""
        raise ValueError(f"ask takes one question as text, got {type(question).__name__}{several}")
    if not question.strip():
        raise ValueError("the question is empty")
    return question


def checked_options(options: Any, most: int) -> tuple[str, ...]:
    """Return the options of a multiple-choice question, also as a list; refuse what are not at most `most` texts."""
    if options is None:
        return ()
    if isinstance(options, str | Mapping) or not isinstance(options, Iterable):
        raise ValueError(f"options must be a list of texts, got {type(options).__name__}")
    texts = tuple(options)
    wrong = [option for option in texts if not isinstance(option, str) or not option.strip()]
    if wrong:
        raise ValueError(f"options must be texts that are not empty, got {wrong[0]!r}")
    if len(texts) == 1:
        raise ValueError(f"options must be at least two texts, or none, got {texts[0]!r} alone")
    if len(texts) > most:
        raise ValueError(f"there are {len(texts)} options; letters end at {most}")
    return texts


def checked_seconds(seconds: Tensor | Iterable[float], count: int) -> Tensor:
    """Return the times of `count` frames as float64 [count]; refuse times that are not finite and ascending."""
    times = torch.as_tensor(seconds if isinstance(seconds, Tensor) else list(seconds), dtype=torch.float64)
    if times.shape != (count,) or not bool(times.isfinite().all() and (times.diff() >= 0).all()):
        raise ValueError(f"seconds must be {count} finite numbers in ascending order, one per frame")
    return times


def raise_if_lost(error: Exception) -> None:
    """Raise an error again if every later call fails too: the answer engine is gone, or a CUDA error lost the GPU.

    Call it where errors are recorded and work goes on: the rest must not be recorded as wrong answers.
    """
    if isinstance(error, torch.AcceleratorError | EngineLostError):
        raise error


def check_engine(engine: str, **options: Any) -> None:
    """Refuse options of an answer engine without one.

    Raises:
        ValueError: naming the options.
    """
    others = [name for name, value in options.items() if value]
    if engine == OWN_ENGINE and others:
        raise ValueError(f"{', '.join(others)}: for another engine only, such as engine=vllm")


def check_looks(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse numbers of the two looks that are out of range, and those that only two looks have without `cost`.

    Args:
        options: all options by name.
        defaults: their defaults.

    Raises:
        ValueError: naming the option, the value and the range.
    """
    others = [name for name in LOOKS if options[name] != defaults[name]]
    if options["cost"] is None and others:
        raise ValueError(f"{', '.join(others)}: for two looks only: give cost, or leave them out")
    shrink = options["first_look_shrink"]
    if not isinstance(shrink, int | float) or not shrink >= 1:
        raise ValueError(f"first_look_shrink must be a number of at least 1, got {shrink!r}")
    for name, most in {"cost": 2, "first_look_share": 1, "second_look_area": 1, "second_look_gb": math.inf}.items():
        value = options[name]
        if not (name == "cost" and value is None) and not _is_above_0(value, most):
            limits = "above 0" if math.isinf(most) else f"above 0 and at most {most}"
            raise ValueError(f"{name} must be a number {limits}, got {value!r}")


def check_verify(verify: bool, engine: str) -> None:
    """Refuse to prove moments with an answer engine, which gives no likelihoods of other answers.

    Raises:
        ValueError: if `verify` is set.
    """
    if verify and engine != OWN_ENGINE:
        raise ValueError(f"verify needs engine={OWN_ENGINE}, got {engine}: it asks for the likelihood of one answer")
