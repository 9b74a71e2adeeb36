"""Find a checkpoint's files, read its config.json, and say what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import cached_file

from flexselect.attention.layers import choices_of
from flexselect.shipped import checkpoint_folder, config_file

LFS_POINTER = b"version https://git-lfs"  # how a file begins that Git LFS did not fetch
FOREIGN = ("*.bin", "*.pt", "*.pth", "*.gguf")  # weights in formats that are not read


def read_config(path: str | Path) -> dict[str, Any]:
    """Read config.json of a local folder or a hub id.

    Raises:
        FileNotFoundError: naming the path, if there is no such file or it cannot be fetched.
    """
    path = checkpoint_folder(str(path))
    folder = Path(path)
    parent_is_local = str(path).count("/") == 1 and folder.parent.is_dir()  # so "parent/name" is no hub id
    if not folder.exists() and Path(config_file(path)).is_file():
        raise FileNotFoundError(f"{path} is the name of a config; here a checkpoint is needed: a folder or a hub id")
    is_path = folder.is_absolute() or str(path).count("/") > 1 or folder.exists() or parent_is_local
    if is_path and not folder.is_dir():
        raise FileNotFoundError(f"{path} is not a folder with a checkpoint")
    try:
        file = cached_file(str(path), "config.json")
    except OSError as error:
        raise FileNotFoundError(
            f"no config.json at {path!r}, neither a local folder nor on the hub: {error}\n"
            "Without a network, download the checkpoint elsewhere, and give its folder: --family.path, or ask --model"
        ) from error
    if file is None:
        raise FileNotFoundError(f"no config.json in {path}: not a checkpoint")
    try:
        config = json.loads(Path(file).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is cut short or no JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file} is damaged: it holds {type(config).__name__}, not an object")
    names, defaults = config.get("architectures") or [], config.get("flexselect", {})
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{file} is damaged: its architectures are {names!r}, not a list of names")
    if not isinstance(defaults, dict) or not all(isinstance(number, int | float) for number in defaults.values()):
        raise ValueError(f"{file}: its flexselect must be an object of numbers, got {defaults!r}")
    return config


def kind_of(config: dict[str, Any]) -> str:
    """Say which kind of model a config.json describes."""
    return f"model_type {config.get('model_type')!r}, architectures {config.get('architectures')}"


def check_defaults(path: str, config: dict[str, Any], layers: Sequence[int]) -> dict[str, Any]:
    """Return a checkpoint's own defaults, its config.json's "flexselect"; refuse what no model can have.

    Args:
        path: the checkpoint, for errors.
        config: its config.json.
        layers: the decoder layers that have attention.

    Raises:
        ValueError: if a number is negative, `budget` no whole number above 0, or `reference_layer` no layer; or if no
            layer has attention.
    """
    if not layers:
        raise ValueError(f"{path}: by its config.json no layer has attention, so there are no scores to select by")
    defaults: dict[str, Any] = config.get("flexselect", {})
    budget = defaults.get("budget", 1)
    wrong = [f"{name} is {number}, not a number above 0" for name, number in defaults.items() if not number >= 0]
    if budget != int(budget) or budget < 1:
        wrong.append(f"budget is {budget}, not a whole number above 0")
    if defaults.get("reference_layer", layers[0]) not in layers:
        wrong.append(f"reference_layer is {defaults['reference_layer']}, not {choices_of(layers)} by its layers")
    if wrong:
        raise ValueError(f"{path}: the defaults under flexselect in its config.json are wrong: {wrong[0]}")
    return defaults


@contextmanager
def describing(path: str | Path) -> Iterator[None]:
    """Name the checkpoint's config.json in errors that libraries raise about its fields within a `with` block."""
    try:
        yield
    except (FileNotFoundError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: its config.json does not describe a valid model: {reason}") from error


@dataclass(frozen=True)
class Damage:
    """A fault of a checkpoint's weight files, and its remedy."""

    reason: str
    advice: str

    def __str__(self) -> str:
        """Format both for a message."""
        return f"{self.reason}; {self.advice}"


def damage_of(path: str) -> Damage | None:
    """Look for a damaged or missing weight file of a local checkpoint; None: there is none, or it is on the hub."""
    folder = Path(path)
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        try:
            with safe_open(str(file), "pt"):
                pass
        except (OSError, SafetensorError) as error:
            with file.open("rb") as start:
                if start.read(len(LFS_POINTER)) == LFS_POINTER:
                    return Damage(f"{file.name} is a pointer of Git LFS, not the weights", "run `git lfs pull` there")
            return Damage(f"{file.name} cannot be read: {error}", "download this file again")
    names = [file.name for file in files]
    others = sorted(file.name for pattern in FOREIGN for file in folder.glob(pattern))
    if others and not files:
        advice = "download the .safetensors files, or write them with transformers' save_pretrained"
        return Damage(f"its weights are no .safetensors files: {others[0]}", advice)
    if files and "model.safetensors" not in names and not (folder / "model.safetensors.index.json").exists():
        return Damage("model.safetensors.index.json, the index of the shards, is missing", "download it")
    return None


def weight_files(path: str, download: bool = True) -> dict[str, str | None]:
    """Find the weight files that a checkpoint should have, by name; None: missing.

    Args:
        path: local folder or hub id.
        download: whether files on the hub are downloaded; else they are missing until something else does.

    Raises:
        ValueError: naming the index of the files, if it is damaged.
    """
    index = find_file(path, "model.safetensors.index.json", download)
    names = ["model.safetensors"] if index is None else sorted(set(_weight_map(Path(index)).values()))
    return {name: find_file(path, name, download) for name in names}


def _weight_map(index: Path) -> dict[str, str]:
    """Read which file holds each tensor.

    Raises:
        ValueError: naming the file, if it is damaged.
    """
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{index} is cut short or no index of weights; download it again ({error!r})") from error
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ValueError(f"{index} is damaged: its weight_map is no object of file names; download it again")
    return places


def find_file(path: str, name: str, download: bool = True) -> str | None:
    """Find a file of a checkpoint; None: there is none, or it is on the hub and `download` is false."""
    offline = {} if download else {"local_files_only": True, "_raise_exceptions_for_connection_errors": False}
    return cached_file(path, name, _raise_exceptions_for_missing_entries=False, **offline)
