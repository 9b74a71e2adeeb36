"""A place for the features, keys and values of a session: a device, or temporary files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import load_file

from flexselect.scoring.prefix_cache import PrefixCache, fill_prefix_caches, named_states
from flexselect.storage.encoded_file import read_encoded, write_encoded, write_tensors
from flexselect.structures.prompt import EncodedVideo


class KeptData:
    """Puts data in one place.

    Args:
        on: a device; "disk": files that are deleted with this object; None: where the data was computed.
    """

    def __init__(self, on: str | None = None) -> None:
        self.on = on
        self._folder: TemporaryDirectory | None = None

    def _file(self, name: str) -> Path:
        self._folder = self._folder or TemporaryDirectory(prefix="flexselect-")
        return Path(self._folder.name) / name

    def features(self, encoded: EncodedVideo) -> EncodedVideo:
        """Store an encoded video."""
        if self.on != "disk":
            return encoded if self.on is None else encoded.to(self.on)
        file = self._file("features.safetensors")
        write_encoded(file, encoded)
        return read_encoded(file, encoded.prefix_ids)[0]

    def states(self, parts: Iterator[PrefixCache]) -> Iterator[PrefixCache]:
        """Store each part of a prefix cache before the next one is computed."""
        for number, part in enumerate(parts):
            if self.on == "disk":
                file = self._file(f"states-{number}.safetensors")
                write_tensors(file, named_states([part]), {})
                yield fill_prefix_caches([part], load_file(file))[0]
            else:
                yield part if self.on is None else part.to(self.on)

    def moved(self, encoded: EncodedVideo, place: KeptData) -> EncodedVideo:
        """Store a video that lies here in another place, and delete the files here."""
        stored = place.features(encoded if self._folder is None else encoded.clone_features())
        self.delete()
        return stored

    def delete(self) -> None:
        """Delete the files, if there are any."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
