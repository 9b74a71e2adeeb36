"""A video's features in a safetensors file: written whole or not at all, read by mapping it into memory."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from flexselect.structures.frames import VideoFacts
from flexselect.structures.prompt import EncodedVideo


def write_encoded(
    file: Path,
    encoded: EncodedVideo,
    provenance: dict[str, Any] | None = None,
    states: dict[str, Tensor] | None = None,
) -> None:
    """Write a video's features in safetensors, in one step: whole or not at all.

    Args:
        file: that is written.
        encoded: the video.
        provenance: what it was made with.
        states: what was kept of its scoring, by name, see `flexselect.scoring.prefix_cache`.
    """
    tensors = {
        "features": encoded.features,
        "seen": encoded.selector_features,
        "seconds": encoded.seconds,
        **(states or {}),
    }
    delimiters = [[ids.tolist() for ids in around] for around in encoded.delimiters]
    about = {
        "grid": encoded.grid,
        "seconds_per_unit": encoded.seconds_per_unit,
        "brackets": delimiters,
        "made_with": provenance or {},
        "facts": encoded.about.facts,
        "warnings": encoded.about.warnings,
    }
    write_tensors(file, {name: tensor for name, tensor in tensors.items() if tensor is not None}, about)


def write_tensors(file: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write a safetensors file in one step: whole or not at all.

    Raises:
        OSError: naming the file and the reason.
    """
    if file.is_dir() or not file.parent.is_dir():
        reason = "it is a folder" if file.is_dir() else f"there is no folder {file.parent}"
        raise OSError(f"{file} cannot be written: {reason}")
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        save_file(kept, temporary, {"about": json.dumps(about)})
        temporary.replace(file)
    except (OSError, SafetensorError) as error:
        size = sum(tensor.nbytes for tensor in kept.values()) / 1e6
        raise OSError(
            f"{file} cannot be written ({size:.0f} MB): {error}; free some room, or choose another place"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def read_encoded(file: Path, prefix_ids: Tensor) -> tuple[EncodedVideo, dict[str, Any], dict[str, Tensor]]:
    """Read features again: the video, what it was made with, and what was kept of its scoring.

    Its tensors are parts of the file, mapped into memory: opening it takes no time, and what is used is read.

    Raises:
        FileNotFoundError: no such file.
        SafetensorError, KeyError, ValueError: a file that is broken, or not of such features.
    """
    with safe_open(file, "pt") as stored:
        about = json.loads(stored.metadata()["about"])
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    delimiters = tuple((torch.tensor(before), torch.tensor(after)) for before, after in about["brackets"])
    known = tuple(about["grid"]), about["seconds_per_unit"], delimiters
    encoded = EncodedVideo(prefix_ids, tensors.pop("features"), *known)
    if len(encoded.features) % encoded.num_units or not torch.is_floating_point(encoded.features):
        raise ValueError("its features do not fit its grid")
    read = VideoFacts(about.get("facts", {}), about.get("warnings", []))  # version 0.1 did not keep them
    whole = replace(
        encoded, selector_features=tensors.pop("seen", None), seconds=tensors.pop("seconds", None), about=read
    )
    return whole, about["made_with"], tensors
