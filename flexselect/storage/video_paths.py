"""Names of video files as people write them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from urllib.parse import unquote

CURRENT = (".mp4", ".mkv", ".webm", ".mov", ".m4v", ".ts", ".m2ts")
OLDER = (".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ogv", ".gif", ".webp")
VIDEO_ENDINGS = CURRENT + OLDER


def file_of(name: str | Path, root: str | Path = ".") -> Path:
    """The file that a name means: relative to `root`, or absolute, or with "~" or "file://" before it.

    A file that is really called so comes first. Nothing is looked up on a network.
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
        except RuntimeError:  # nobody of that name
            return literal
    rest = unquote(text.removeprefix("file:")).removeprefix("//")
    return Path(root) / (rest.removeprefix("localhost") if rest.startswith("localhost/") else rest)


def videos_of(name: str, root: str | Path = ".") -> list[str]:
    """The videos that a name means: a file, those of a folder, or those that a pattern fits; relative to `root`.

    Raises:
        ValueError: for a folder without videos, or a pattern that nothing fits.
    """
    path = file_of(name, root)
    if is_folder(path):
        found = sorted(str(Path(name) / file.relative_to(path)) for file in videos_in(path))
        if not found:
            raise ValueError(f"{name}: the folder has no video ({', '.join(VIDEO_ENDINGS)})")
        return found
    if os.path.lexists(path) or not any(sign in name for sign in "*?["):
        return [name]
    found = sorted(glob(str(Path(name).expanduser()), root_dir=root, recursive=True))  # noqa: PTH207
    if not found:
        raise ValueError(f"{name}: no file fits this pattern")
    return [file for file in found if not is_folder(Path(root) / file)]


def videos_in(folder: Path) -> list[Path]:
    """The videos below a folder; what begins with a dot is another program's."""
    found = (file for file in files_below(folder) if file.suffix.lower() in VIDEO_ENDINGS)
    return sorted(file for file in found if not file.name.startswith(".") and is_file(file))


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder, linked folders too, each of those once: links may lead in a circle."""
    seen = set[str]()
    for place, folders, files in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(place))
        folders[:] = [name for name in sorted(folders) if os.path.realpath(Path(place) / name) not in seen]
        yield from (Path(place) / name for name in sorted(files))


def is_folder(path: Path) -> bool:
    """Whether a path is a folder; one that may not be looked at is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Whether a path is a file; one that may not be looked at is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def size_of(file: Path) -> int:
    """Bytes of a file; 0 of one that cannot be looked at, which is said when it is opened."""
    try:
        return file.stat().st_size
    except (OSError, ValueError):
        return 0


def readable(path: str | Path) -> str:
    """A file's name for a message: `Path` makes one slash of an address's two, and some characters cannot be shown."""
    text = str(path)
    text = text.replace(":/", "://", 1) if is_url(text) and "://" not in text else text
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def is_url(name: str | Path) -> bool:
    """Whether a name is an address on a network; `Path` makes one slash of two."""
    scheme, colon, rest = str(name).partition(":")
    return bool(colon) and scheme.lower() in ("http", "https", "ftp", "rtsp", "rtmp", "s3", "gs") and rest[:1] == "/"


def refusal(path: Path) -> str | None:
    """Why a file cannot be opened, in words, with what to do; None if nothing is known to be in the way."""
    if is_url(path):
        return "addresses on a network are not read; download the video first"
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return "no such file; check the path and the folder that it is relative to"
    except PermissionError:
        return "cannot be opened: permission denied on its folder; `chmod +x` that, or run as its owner"
    except OSError as error:  # a name that is too long, a folder that may not be entered, links in a circle
        return f"cannot be opened: {error.strerror or error}"
    except ValueError as error:  # a name that no file can have
        return f"cannot be opened: {error}"
    if path.is_dir():
        return "is a folder, not a video file"
    if not path.is_file():
        return "is no file (a pipe or a device); save the video to a file first"
    if not os.access(path, os.R_OK):
        return "may not be read: permission denied; `chmod +r` it, or run as its owner"
    if size == 0:
        return "the file is empty; copy or download it again"
    return None
