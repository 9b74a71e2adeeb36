"""From the address of a video to its file or its frames, and the hash of their content."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile
from typing import TypeVar
from urllib.parse import unquote

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flexselect.serving.chat import VideoPart
from flexselect.serving.refusals import bad
from flexselect.serving.videos.remote import Remote, check_size

T = TypeVar("T")
STEP = 1 << 20  # bytes that are hashed or written at a time
FRESH = 600.0  # seconds for which an address on another machine stands for the video that it had
MOST_KNOWN = 10_000  # names that are remembered
MOST_PIXELS = 500_000_000  # of all frames of a request
PICTURES = ("JPEG", "PNG", "WEBP")
# What a video file begins with, by place. Others, playlists above all, may make a decoder open further files.
BEGINNINGS = (
    *((4, kind) for kind in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"pnot")),
    (0, b"\x1aE\xdf\xa3"),  # Matroska, WebM
    (8, b"AVI "),
    (8, b"WEBP"),
    (0, b"\x00\x00\x01\xba"),  # MPEG program stream
    (0, b"\x00\x00\x01\xb3"),
    (0, b"0&\xb2u"),  # ASF
    (0, b"FLV\x01"),
    (0, b"OggS"),
    (0, b"GIF8"),
)


@dataclass(frozen=True)
class Media:
    """A video that can be opened: its content's hash, and its file or frames."""

    key: str  # hex digits
    source: Path | Tensor | None  # a file, or frames uint8 [T, h, w, 3]; None: the video was encoded before
    temporary: bool = False  # whether the file is deleted afterwards

    def close(self) -> None:
        """Delete a temporary file."""
        if self.temporary and isinstance(self.source, Path):
            self.source.unlink(missing_ok=True)


class MediaDoor:
    """Opens the videos that requests name: data: URLs, files below one folder, https addresses. Thread-safe.

    Args:
        folder: for temporary files.
        media_root: the folder that local files are read from; None: no local files.
        remote: fetches addresses of other machines; None: they are refused.
        max_bytes: the largest video.
    """

    def __init__(self, folder: Path, media_root: Path | None, remote: Remote | None, max_bytes: int) -> None:
        self.folder, self.remote, self.max_bytes = folder, remote, max_bytes
        self.media_root = None if media_root is None else media_root.resolve()
        self._keys: OrderedDict[str, tuple[str, float]] = OrderedDict()  # name -> key, and until when
        self._lock = threading.Lock()

    def known(self, part: VideoPart) -> str | None:
        """Return the key of a video by its uuid, or by an address that was fetched a short while ago; else None."""
        with self._lock:
            for name in _names(part):
                key, until = self._keys.get(name, ("", 0.0))
                if time.monotonic() < until:
                    self._keys.move_to_end(name)
                    return key
        return None

    def open(self, part: VideoPart) -> Media:
        """Open a video, whether it is known or not.

        Raises:
            RefusedError: if it is not allowed, not there, too large, or no video.
        """
        if part.is_frames:
            media = self._frames(part.urls)
        else:
            (url,) = part.urls
            scheme = url.partition(":")[0].lower()
            if scheme == "data":
                media = self._write(_decoded(url))
            elif scheme in ("http", "https"):
                media = self._fetch(url)
            else:
                media = self._local(url)
        self._remember(part, media.key)
        return media

    def _remember(self, part: VideoPart, key: str) -> None:
        with self._lock:
            for name in _names(part):
                fresh = float("inf") if name.startswith("uuid ") else FRESH
                self._keys[name] = key, time.monotonic() + fresh
            while len(self._keys) > MOST_KNOWN:
                self._keys.popitem(last=False)

    def _fetch(self, url: str) -> Media:
        if self.remote is None:
            reason = "this server fetches no addresses (--allow_remote): send the video as a data: URL"
            raise bad(reason, "messages", "remote_off")
        return self._write(self.remote.chunks(url))

    def _local(self, url: str) -> Media:
        if self.media_root is None:
            reason = "this server reads no local files (--media_root): send the video as a data: URL"
            raise bad(reason, "messages", "local_off")
        rest = unquote(url.partition(":")[2]) if url.lower().startswith("file:") else url
        rest = rest.removeprefix("//localhost") if rest.startswith("//localhost/") else rest.removeprefix("//")
        refused = bad("there is no such video below the server's media root", "messages", "no_such_file")
        if "\0" in rest:
            raise refused
        try:
            path = (self.media_root / rest).resolve(strict=True)
            inside = path.is_relative_to(self.media_root) and path.is_file() and os.access(path, os.R_OK)
            status = path.stat()
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links form a circle
            raise refused from error
        if not inside:  # the same words: what is outside is nobody's business
            raise refused
        check_size(status.st_size, self.max_bytes)
        name = f"file {path}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ino}"
        with self._lock:
            key = self._keys.get(name, ("", 0.0))[0]
        if not key:
            with path.open("rb") as file:
                _check_kind(file.read(512))
                file.seek(0)
                key = _hash(iter(lambda: file.read(STEP), b""))
            with self._lock:
                self._keys[name] = key, float("inf")
        return Media(key, path)

    def _write(self, chunks: Iterable[bytes]) -> Media:
        """Write a video to a temporary file while it comes."""
        with NamedTemporaryFile(dir=self.folder, delete=False) as file:
            path = Path(file.name)
            try:
                size = 0

                def written() -> Iterator[bytes]:
                    nonlocal size
                    for chunk in chunks:
                        size += len(chunk)
                        check_size(size, self.max_bytes)
                        file.write(chunk)
                        yield chunk

                key = _hash(written())
                file.flush()
                with path.open("rb") as start:
                    _check_kind(start.read(512))
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        return Media(key, path, temporary=True)

    def _frames(self, urls: tuple[str, ...]) -> Media:
        """Decode the pictures of a request: the frames of one video, all of one size."""
        frames: np.ndarray | None = None
        for number, url in enumerate(urls):
            if not url.lower().startswith("data:"):
                raise bad(f"frame {number}: a frame must be a data: URL", "messages")
            picture = _picture(b"".join(_decoded(url)), number)
            shape = len(urls), picture.height, picture.width, 3
            if len(urls) * picture.width * picture.height > MOST_PIXELS:
                raise bad(f"the frames have more than {MOST_PIXELS:,} pixels together", "messages", "too_large")
            if frames is None:  # on the disk, since many requests may wait with their frames
                with TemporaryFile(dir=self.folder) as file:
                    frames = np.memmap(file, np.uint8, "w+", shape=shape)
            if shape != frames.shape:
                raise bad(f"frame {number} has another size than frame 0: all must be alike", "messages")
            frames[number] = _loaded(picture, number)
        assert frames is not None
        return Media(
            _hash([str(frames.shape).encode(), *(frame.tobytes() for frame in frames)]), torch.from_numpy(frames)
        )


def _names(part: VideoPart) -> list[str]:
    """List the names by which a video is known without looking at it."""
    remote = [f"url {url}" for url in part.urls if url[:4].lower() == "http"]
    return ([] if part.uuid is None else [f"uuid {part.uuid}"]) + remote


def _hash(chunks: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _decoded(url: str) -> Iterator[bytes]:
    """Yield the bytes of a data: URL."""
    head, comma, data = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise bad("a data: URL must be base64: data:video/mp4;base64,...", "messages")
    for first in range(0, len(data), 4 * STEP):
        try:
            yield base64.b64decode(data[first : first + 4 * STEP], validate=True)
        except (binascii.Error, ValueError) as error:
            raise bad("the data: URL is not valid base64", "messages") from error


def _check_kind(start: bytes) -> None:
    """Refuse what does not begin as a video file does.

    Raises:
        RefusedError: naming the kinds.
    """
    known = any(start[place : place + len(mark)] == mark for place, mark in BEGINNINGS)
    stream = any(len(start) > at + 188 and start[at] == start[at + step] == 0x47 for at, step in ((0, 188), (4, 192)))
    if not (known or stream):
        reason = (
            "this is no video file that is read here (MP4, MOV, MKV, WebM, AVI, TS, MPEG, WMV, FLV, Ogg, GIF, WebP)"
        )
        raise bad(reason, "messages", "no_video")


def _picture(data: bytes, number: int) -> Image.Image:
    return _readable(lambda: Image.open(io.BytesIO(data), formats=PICTURES), number)


def _loaded(picture: Image.Image, number: int) -> np.ndarray:
    return _readable(lambda: np.array(picture.convert("RGB")), number)


def _readable(read: Callable[[], T], number: int) -> T:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise bad(f"frame {number} is no picture (JPEG, PNG or WebP)", "messages") from error
