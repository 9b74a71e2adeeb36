"""Encoded videos of the server: each is decoded and encoded once for all requests, in a bounded amount of memory."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from flexselect.engine.clock import Clock
from flexselect.page.modes import Modes
from flexselect.serving.refusals import bad
from flexselect.session import VideoSession
from flexselect.storage.encoded_file import read_encoded, write_encoded
from flexselect.storage.video_source import open_frame_stream
from flexselect.structures.frames import ReadOptions
from flexselect.structures.prompt import EncodedVideo

GONE = "unknown_uuid"  # code of a refusal: the video is not here any more
Key = tuple[str, ReadOptions]  # hash of a video's content, and the part of it


class LeftError(Exception):
    """Nobody waits for the result any more."""


@dataclass
class Entry:
    """An encoded video, and its sessions by selector; they share its features."""

    encoded: EncodedVideo | None  # None: it lies in `file`
    timings: dict[str, float]
    place: str
    sessions: dict[str, VideoSession] = field(default_factory=dict)
    file: Path | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of the features, and of keys and values that sessions keep."""
        if self.encoded is None:
            assert self.file is not None
            return self.file.stat().st_size
        tensors = (self.encoded.features, self.encoded.selector_features)
        states = sum(session.num_bytes["scores_kv"] for session in self.sessions.values())
        return states + sum(tensor.nbytes for tensor in tensors if tensor is not None)


class VideoStore:
    """Encoded videos, the least recently used of which go from the device to the CPU, to the disk, and away.

    `hold` and `release` may be called from any thread, everything else only by whoever holds the lock of `modes`.

    Args:
        modes: the loaded model.
        room: bytes by place, from the nearest: the model's device, then "cpu", "disk".
        folder: for features on the disk.
    """

    def __init__(self, modes: Modes, room: dict[str, int], folder: Path) -> None:
        self.modes, self.room, self.folder = modes, room, folder
        self.device = next(iter(room))
        self.closed = False  # whether the server ends: what runs is given up
        self.encodings = 0  # videos that were decoded and encoded
        self._entries: OrderedDict[Key, Entry] = OrderedDict()  # the most recently used one is the last
        self._wanted: Counter[Key] = Counter()
        self._bytes = dict.fromkeys(room, 0)
        self._lock = threading.Lock()

    def hold(self, key: Key) -> bool:
        """Keep a video from being dropped until `release`; return whether it is here, or another request brings it."""
        with self._lock:
            self._wanted[key] += 1
            return key in self._entries or self._wanted[key] > 1

    def has(self, key: Key) -> bool:
        """Return whether a video is encoded."""
        with self._lock:
            return key in self._entries

    def release(self, key: Key) -> None:
        """End a `hold`."""
        with self._lock:
            self._wanted[key] -= 1
            if self._wanted[key] <= 0:
                del self._wanted[key]

    def open(self, key: Key, source: Path | Tensor | None, selector: str) -> tuple[VideoSession, bool]:
        """Return the session of a video for a selector, and whether the video had been encoded before.

        Args:
            key: the video, and its part.
            source: its file, or frames uint8 [T, h, w, 3]; None: it was encoded before.
            selector: see `Modes.engine`.

        Raises:
            RefusedError: if the video is not here any more.
            ValueError: if it cannot be read.
            LeftError: if nobody waits for it any more.
        """
        entry = self._entries.get(key)
        reused = entry is not None
        if entry is None:
            if source is None:
                raise bad("the video with this uuid is not here any more: send its url", "messages", GONE)
            entry = self._encode(key, source)
        with self._lock:
            self._entries[key] = entry
            self._entries.move_to_end(key)
        self._move(entry, self.device)
        if selector not in entry.sessions:
            assert entry.encoded is not None
            entry.sessions[selector] = self.modes.engine(selector).open_encoded(entry.encoded, entry.timings)
        return entry.sessions[selector], reused

    def _encode(self, key: Key, source: Path | Tensor) -> Entry:
        engine = self.modes.encoder
        clock = Clock(engine.gpus)
        with clock("decode"):
            resize = engine.lm.prompter.resize
            reading = engine.family.reading(key[1])
            stream, _ = open_frame_stream(source, None, reading, engine.family.sample, resize)
        whole = stream.read

        def while_wanted() -> Iterator[Tensor]:
            for frames in whole():
                if self._wanted[key] <= 0 or self.closed:
                    raise LeftError
                yield frames

        self.encodings += 1
        session = engine.open_source(replace(stream, read=while_wanted), clock.timings, progress=False)
        encoded = session.encode()
        return Entry(encoded, session.timings, self.device)

    def settle(self) -> None:
        """Bring every place below its bound: move the least recently used videos on, or drop them."""
        places: list[str | None] = [*self.room, None]
        for place, below in zip(self.room, places[1:]):
            there = [(key, entry) for key, entry in self._entries.items() if entry.place == place]
            total = sum(entry.num_bytes for _, entry in there)
            for key, entry in there:
                if total <= self.room[place]:
                    break
                total -= entry.num_bytes
                entry.sessions.clear()  # keys and values are the first to go
                if below is not None:
                    self._move(entry, below)
                else:
                    self._drop(key)
        self._bytes = {
            place: sum(entry.num_bytes for entry in self._entries.values() if entry.place == place)
            for place in self.room
        }

    def clear(self) -> None:
        """Drop everything, for example because the memory is full."""
        for key in list(self._entries):
            self._drop(key)

    def bytes_in(self, place: str) -> int:
        """Return the bytes in a place."""
        return self._bytes[place]

    def _drop(self, key: Key) -> None:
        with self._lock:
            entry = self._entries.pop(key)
        if entry.file is not None:
            entry.file.unlink(missing_ok=True)

    def _move(self, entry: Entry, place: str) -> None:
        if entry.place == place:
            return
        file, encoded = entry.file, entry.encoded
        if encoded is None:
            assert file is not None
            encoded = read_encoded(file, self.modes.encoder.lm.prompter.prefix_ids)[0].clone_features()
        entry.sessions.clear()
        if place == "disk":
            entry.file = self.folder / f"features-{id(entry)}.safetensors"
            write_encoded(entry.file, encoded)
            entry.encoded = None
        else:
            entry.encoded, entry.file = encoded.to(torch.device(place)), None
            if file is not None:
                file.unlink(missing_ok=True)
        entry.place = place
