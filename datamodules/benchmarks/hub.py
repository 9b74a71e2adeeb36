"""Download a benchmark from the hub and unpack its archives; an interrupted download can be continued."""

from __future__ import annotations

import logging
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock
from huggingface_hub import HfApi, snapshot_download

log = logging.getLogger(__name__)

DONE = ".unpacked"  # lists the unpacked archives, one per line


def fetch(repository: str, folder: Path) -> None:
    """Download a data set and unpack it; processes that do so at the same time wait for each other.

    Args:
        repository: "owner/name" on the hub.
        folder: where to put the files; created if missing. Archives are kept, so that they are not downloaded again;
            delete them after everything is unpacked.

    Raises:
        ConnectionError: if it cannot be downloaded; with the reason.
        OSError: naming an archive that is broken.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".download.lock"):
        try:
            # fails without a connection; `snapshot_download` would then accept the folder as complete
            HfApi().dataset_info(repository)
            snapshot_download(repository, repo_type="dataset", local_dir=folder)
        except Exception as error:  # the client raises many types; the message says what is wrong
            raise ConnectionError(f"{repository} cannot be downloaded into {folder}: {error}") from error
        unpack(folder)


def unpack(folder: Path) -> None:
    """Unpack each archive under a folder in place, once: zip, tar, and tar in parts (".tar.part.aa").

    Raises:
        OSError: naming an archive that is broken.
    """
    record = folder / DONE
    done = set(record.read_text(encoding="utf-8").split("\n")) if record.exists() else set()
    for name, parts in _archives(folder).items():
        line = f"{name} {sum(part.stat().st_size for part in parts)}"
        if line in done:
            continue
        log.info("unpacking %s", folder / name)
        try:
            _extract(parts, (folder / name).parent)
        except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
            raise OSError(f"{folder / name} is broken ({error}): delete it and download it again") from error
        with record.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _archives(folder: Path) -> dict[str, list[Path]]:
    """Find the archives under a folder by name, with their parts in order."""
    archives: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        match = re.fullmatch(r"(.*\.(?:zip|tar|tar\.gz|tgz))(?:\.part.*)?", path.name)
        if match and path.is_file() and ".cache" not in path.relative_to(folder).parts:
            archives.setdefault(str(path.relative_to(folder).with_name(match.group(1))), []).append(path)
    return archives


def _extract(parts: list[Path], target: Path) -> None:
    if parts[0].suffix == ".zip":
        with zipfile.ZipFile(parts[0]) as archive:
            archive.extractall(target)
        return
    stream: Any = _Joined(parts)
    with tarfile.open(fileobj=stream, mode="r|*") as archive:
        archive.extractall(target, filter="data")  # writes nothing outside the folder


class _Joined:
    """Reads several files as one."""

    def __init__(self, parts: list[Path]) -> None:
        self._files = self._open_in_order(parts)
        self._file = next(self._files)

    def read(self, size: int) -> bytes:
        """Read at most `size` bytes; empty at the end."""
        data = self._file.read(size)
        while not data:
            following = next(self._files, None)
            if following is None:
                return b""
            self._file = following
            data = self._file.read(size)
        return data

    @staticmethod
    def _open_in_order(parts: list[Path]) -> Iterator[BinaryIO]:
        for part in parts:
            with part.open("rb") as file:
                yield file
