"""A file by its size and samples of its bytes: large ones are told apart in no time."""

from __future__ import annotations

import hashlib
from pathlib import Path

BYTES = 4096  # of a sample


def file_hash(path: Path, samples: int = 16) -> str:
    """Hash of a file by its size and samples of 4 KB, 16 hex digits; its name and time do not count.

    Args:
        path: of the file.
        samples: how many, from its begin to its end.

    Raises:
        OSError: if it cannot be read.
    """
    digest = hashlib.sha256()
    add_samples(digest, path, samples)
    return digest.hexdigest()[:16]


def add_samples(digest: hashlib._Hash, path: Path, samples: int) -> None:
    """Feed a digest with a file: its size, then samples evenly spread from its begin to its end."""
    size = path.stat().st_size
    digest.update(f"{size}\n".encode())
    with path.open("rb") as file:
        for sample in range(samples):
            file.seek(max(0, size - BYTES) * sample // (samples - 1))
            digest.update(file.read(BYTES))
