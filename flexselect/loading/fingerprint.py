"""Hash weights and name package versions, to tell whether two results can be compared."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import distributions, version
from pathlib import Path

from flexselect.loading.checkpoint_files import find_file, weight_files
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


def package_versions(*more: str) -> dict[str, str]:
    """Return the versions of the packages that can change numbers, and of further ones that are installed."""
    names = ["torch", "torchvision", "transformers", "tokenizers", "av", "numpy", "pillow"]
    names += [name for name in more if name not in names and list(distributions(name=name))]
    return {"python": platform.python_version(), "flexselect": __version__, **{name: version(name) for name in names}}


def text_hash(texts: list[str]) -> str:
    """Hash prompts to 16 hex digits."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _files(path: str) -> list[Path]:
    """List config.json and the weight files."""
    files = {"config.json": find_file(path, "config.json"), **weight_files(path)}
    missing = [name for name, file in files.items() if file is None]
    if missing:
        raise FileNotFoundError(f"{path} has no {', '.join(missing)}")
    return [Path(str(file)) for file in files.values()]
