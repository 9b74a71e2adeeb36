"""A video's features in a safetensors file: written in one step, read by mapping the file into memory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from flexselect.storage.run_settings import file_in_one_step
from flexselect.structures.frames import VideoFacts
from flexselect.structures.prompt import EncodedVideo


def write_encoded(
    file: Path,
    encoded: EncodedVideo,
    provenance: dict[str, Any] | None = None,
    states: dict[str, Tensor] | None = None,
) -> None:
    """Write a video's features to a safetensors file in one step: the file appears complete or not at all.

    Args:
        file: the path to write.
        encoded: the encoded video.
        provenance: what the features were made with; None writes {}.
        states: tensors of the prefix cache by name, see `flexselect.scoring.prefix_cache`.
    """
    tensors = {
        "features": encoded.features,
        "seen": encoded.selector_features,
        "seconds": encoded.seconds,
        **(states or {}),
    }
    delimiters = [[ids.tolist() for ids in pair] for pair in encoded.delimiters]
    metadata = {
        "grid": encoded.grid,
        "seconds_per_unit": encoded.seconds_per_unit,
        "brackets": delimiters,
        "made_with": provenance or {},
        "facts": encoded.about.facts,
        "warnings": encoded.about.warnings,
        "decoded": encoded.about.decoded,
        "tower_input": encoded.tower_input,
    }
    write_tensors(file, {name: tensor for name, tensor in tensors.items() if tensor is not None}, metadata)


def write_tensors(file: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write a safetensors file in one step: it appears complete or not at all.

    Raises:
        OSError: naming the file and the reason.
    """
    if file.is_dir() or not file.parent.is_dir():
        reason = "it is a folder" if file.is_dir() else f"there is no folder {file.parent}"
        raise OSError(f"{file} cannot be written: {reason}")
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with file_in_one_step(file) as temporary:
            save_file(stored, temporary, {"about": json.dumps(metadata)})
    except (OSError, SafetensorError) as error:
        size = sum(tensor.nbytes for tensor in stored.values()) / 1e6
        raise OSError(
            f"{file} cannot be written ({size:.0f} MB): {error}; free some room, or choose another place"
        ) from error


def read_encoded(file: Path, prefix_ids: Tensor) -> tuple[EncodedVideo, dict[str, Any], dict[str, Tensor]]:
    """Read a video's features, its provenance, and the tensors of its prefix cache.

    The tensors are mapped into memory: opening the file is immediate, and only the parts that are used are read.

    Args:
        file: the path to read.
        prefix_ids: text before the video, int64 [A].

    Raises:
        FileNotFoundError: if there is no such file.
        SafetensorError, KeyError, ValueError: if the file is broken or does not hold a video's features.
    """
    with safe_open(file, "pt") as stored:
        metadata = json.loads(stored.metadata()["about"])
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    delimiters = tuple((torch.tensor(before), torch.tensor(after)) for before, after in metadata["brackets"])
    layout = tuple(metadata["grid"]), metadata["seconds_per_unit"], delimiters
    encoded = EncodedVideo(prefix_ids, tensors.pop("features"), *layout)
    if len(encoded.features) % encoded.num_units or not torch.is_floating_point(encoded.features):
        raise ValueError("its features do not fit its grid")
    about = VideoFacts(metadata.get("facts", {}), metadata.get("warnings", []), metadata.get("decoded"))
    sizes = metadata.get("tower_input")  # version 0.1 did not write these four
    complete = replace(
        encoded,
        selector_features=tensors.pop("seen", None),
        seconds=tensors.pop("seconds", None),
        about=about,
        tower_input=None if sizes is None else tuple(sizes),
    )
    return complete, metadata["made_with"], tensors
