"""Resolve the names of video files that people write, and explain which files cannot be opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from urllib.parse import unquote

CURRENT = (".mp4", ".mkv", ".webm", ".mov", ".m4v", ".ts", ".m2ts")
OLDER = (".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ogv", ".gif", ".webp")
VIDEO_ENDINGS = CURRENT + OLDER


def resolve_path(name: str | Path, root: str | Path = ".") -> Path:
    """Return the path that a name means: relative to `root`, absolute, or beginning with "~" or "file://".

    If a file with exactly this name exists, it is taken. No network is used.
    """
    text = str(name)
    literal = Path(root) / text
    if "\0" in text or not (is_url(text) or text.startswith(("~", "file:"))) or os.path.lexists(literal):
        return literal
    if is_url(text):
        return Path(text)
    if text.startswith("~"):
        try:
            return Path(text).expanduser()
        except RuntimeError:  # no user of that name
            return literal
    rest = unquote(text.removeprefix("file:")).removeprefix("//")
    return Path(root) / (rest.removeprefix("localhost") if rest.startswith("localhost/") else rest)


def list_videos(name: str, root: str | Path = ".") -> list[str]:
    """List the videos that a name means: a file, all in a folder, or all that match a pattern; relative to `root`.

    Raises:
        ValueError: if the name is empty, a folder has no videos, or no file matches a pattern.
    """
    if not name.strip():
        raise ValueError("the name of the video is empty")
    path = resolve_path(name, root)
    if is_folder(path):
        videos = sorted(str(Path(name) / file.relative_to(path)) for file in videos_below(path))
        if not videos:
            raise ValueError(f"{name}: the folder has no video ({', '.join(VIDEO_ENDINGS)})")
        return videos
    if os.path.lexists(path) or not any(character in name for character in "*?["):
        return [name]
    matches = sorted(glob(str(Path(name).expanduser()), root_dir=root, recursive=True))  # noqa: PTH207
    if not matches:
        raise ValueError(f"{name}: no file fits this pattern")
    return [file for file in matches if not is_folder(Path(root) / file)]


def videos_below(folder: Path) -> list[Path]:
    """List the videos below a folder, without hidden files."""
    files = (file for file in files_below(folder) if file.suffix.lower() in VIDEO_ENDINGS)
    return sorted(file for file in files if not file.name.startswith(".") and is_file(file))


def files_below(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder; linked folders are read once each, because links may form a circle."""
    visited = set[str]()
    for parent, folders, files in os.walk(folder, followlinks=True):
        visited.add(os.path.realpath(parent))
        folders[:] = [name for name in sorted(folders) if os.path.realpath(Path(parent) / name) not in visited]
        yield from (Path(parent) / name for name in sorted(files))


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder; False if permissions or the name prevent the check."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Return whether a path is a file; False if permissions or the name prevent the check."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def size_of(file: Path) -> int:
    """Return the size of a file in bytes, or 0 if it cannot be read; the error is reported when the file is opened."""
    try:
        return file.stat().st_size
    except (OSError, ValueError):
        return 0


def printable_path(path: str | Path) -> str:
    """Return a path for a message: `Path` merges the two slashes of a URL, and some characters are unprintable."""
    text = str(path)
    text = text.replace(":/", "://", 1) if is_url(text) and "://" not in text else text
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def is_url(name: str | Path) -> bool:
    """Return whether a name is a URL; one slash after the colon is enough, because `Path` merges the two."""
    scheme, colon, rest = str(name).partition(":")
    return bool(colon) and scheme.lower() in ("http", "https", "ftp", "rtsp", "rtmp", "s3", "gs") and rest[:1] == "/"


def explain_unreadable(path: Path) -> str | None:
    """Explain why a file cannot be opened and what to do; None if no reason is known."""
    if is_url(path):
        return "addresses on a network are not read; download the video first"
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return "no such file; check the path and the folder that it is relative to"
    except PermissionError:
        return "cannot be opened: permission denied on its folder; `chmod +x` that, or run as its owner"
    except OSError as error:  # the name is too long, or links form a circle
        return f"cannot be opened: {error.strerror or error}"
    except ValueError as error:  # the name is not valid for a file
        return f"cannot be opened: {error}"
    if path.is_dir():
        return "is a folder, not a video file"
    if not path.is_file():
        return "is not a regular file (a pipe or a device); save the video to a file first"
    if not os.access(path, os.R_OK):
        return "may not be read: permission denied; `chmod +r` it, or run as its owner"
    if size == 0:
        return "the file is empty; copy or download it again"
    return None
