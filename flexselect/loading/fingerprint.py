"""Hash weights and name package versions, to tell whether two results can be compared."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path

from transformers.utils import cached_file

from flexselect.storage.file_hash import add_samples
from flexselect.version import __version__

SAMPLES = 64  # samples per file


def weights_hash(path: str) -> str:
    """Hash a checkpoint's configuration and weights to 16 hex digits; the path does not matter.

    Only the size, the header and 64 samples of 4 KB of each weight file are hashed. This is enough, because a training
    step changes nearly every weight, and it takes a second for a 72B model.

    Args:
        path: local folder or hub id.

    Raises:
        FileNotFoundError: naming the missing file.
    """
    digest = hashlib.sha256()
    for file in _files(path):
        digest.update(f"{file.name} ".encode())
        add_samples(digest, file, SAMPLES)
    return digest.hexdigest()[:16]


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that can change numbers."""
    names = ("torch", "torchvision", "transformers", "tokenizers", "av", "numpy", "pillow")
    return {"python": platform.python_version(), "flexselect": __version__, **{name: version(name) for name in names}}


def text_hash(texts: list[str]) -> str:
    """Hash prompts to 16 hex digits."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def weight_files(path: str, download: bool = True) -> dict[str, str | None]:
    """Find the weight files that a checkpoint should have, by name; None: missing.

    Args:
        path: local folder or hub id.
        download: whether files on the hub are downloaded; else they are missing until something else does.

    Raises:
        ValueError: naming the index of the files, if it is damaged.
    """
    index = _find(path, "model.safetensors.index.json", download)
    names = ["model.safetensors"] if index is None else sorted(set(_weight_map(Path(index)).values()))
    return {name: _find(path, name, download) for name in names}


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


def _find(path: str, name: str, download: bool = True) -> str | None:
    offline = {} if download else {"local_files_only": True, "_raise_exceptions_for_connection_errors": False}
    return cached_file(path, name, _raise_exceptions_for_missing_entries=False, **offline)


def _files(path: str) -> list[Path]:
    """List config.json and the weight files."""
    files = {"config.json": _find(path, "config.json"), **weight_files(path)}
    missing = [name for name, file in files.items() if file is None]
    if missing:
        raise FileNotFoundError(f"{path} has no {', '.join(missing)}")
    return [Path(str(file)) for file in files.values()]
