"""Shards: runs that share a table without a coordinator, each with whole videos and a separate output folder."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flexselect.storage.run_settings import UsageError, read_json_object, write_atomically

FILE = "shard.json"  # written when a shard's run ends, and removed when it begins again


@dataclass(frozen=True)
class Shard:
    """One part of a table: the rows about every n-th video.

    Videos are dealt in turn, in the order in which the table names them first. So the assignment depends neither on
    answers nor on file sizes, and rows that are appended to the table move no video.
    """

    name: str  # "3/8": the third of eight
    table: str  # hash of the whole table
    rows: int  # number of rows of the whole table
    positions: dict[str, int]  # places of this shard's rows in the whole table, by key

    @classmethod
    def of(cls, name: str, table: str, rows: Sequence[tuple[Hashable, str]]) -> Shard:
        """Choose a shard's rows.

        Args:
            name: "i/n", with i from 1 to n.
            table: hash of everything that the table asks.
            rows: video and key of each row of the whole table.

        Raises:
            ValueError: if there is no such shard, or there are fewer videos than shards.
        """
        number, count = parse(name)
        videos = list(dict.fromkeys(video for video, _ in rows))
        if count > len(videos):
            raise ValueError(f"--data.shard {name}: there are {len(videos)} videos, which {count} shards cannot share")
        chosen = set(videos[number - 1 :: count])
        positions = {key: place for place, (video, key) in enumerate(rows) if video in chosen}
        return cls(f"{number}/{count}", table, len(rows), positions)

    def write(self, folder: Path, **about: Any) -> None:
        """Write shard.json, from which `merge` learns that the run has ended, and what belongs to it.

        Args:
            folder: output folder of the run.
            about: plain values that `merge` needs besides.
        """
        write_atomically(folder / FILE, json.dumps({**asdict(self), **about}))


def parse(name: str) -> tuple[int, int]:
    """Read "i/n" as number and count.

    Raises:
        ValueError: if it is anything else, or i is not from 1 to n.
    """
    match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", name)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"--data.shard {name}: give i/n with i from 1 to n, for example 3/8 for the third of eight")
    return int(match[1]), int(match[2])


def read_shards(folders: Sequence[Path]) -> list[tuple[Path, Shard, dict[str, Any]]]:
    """Read shard.json of all shards of a table, in the order of their numbers: folder, shard, and what else it says.

    Raises:
        UsageError: if a folder is no finished shard; if they are not parts of one table; or if one is there twice or
            missing. It names the folders.
    """
    shards = [_read(folder) for folder in folders]
    folder_of: dict[int, Path] = {}
    first, one, _ = shards[0]
    for folder, shard, _ in shards:
        (number, count), expected = parse(shard.name), parse(one.name)[1]
        if count != expected:
            raise UsageError(f"{folder} is shard {shard.name}, {first} is shard {one.name}: merge shards of one number")
        if number in folder_of:
            raise UsageError(f"{folder_of[number]} and {folder} are both shard {shard.name}: name each shard once")
        if (shard.table, shard.rows) != (one.table, one.rows):
            advice = "call the older one again, with the same --data options as the newer one"
            raise UsageError(f"{first} and {folder} are shards of different tables: {advice}")
        folder_of[number] = folder
    missing = [f"{number}/{count}" for number in range(1, count + 1) if number not in folder_of]
    if missing:
        raise UsageError(
            f"missing: shard{'s' * (len(missing) > 1)} {', '.join(missing)}; name the folders of all shards"
        )
    return sorted(shards, key=lambda entry: parse(entry[1].name))


def _read(folder: Path) -> tuple[Path, Shard, dict[str, Any]]:
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    if not (folder / FILE).is_file():
        raise UsageError(
            f"{folder} has no {FILE}, which a run with --data.shard writes at its end: if it was stopped, call it again"
        )
    try:
        about = read_json_object(folder / FILE)
        fields = {name: about.pop(name) for name in ("name", "table", "rows", "positions")}
        parse(fields["name"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder / FILE} is damaged ({error}): call the shard's run again") from error
    return folder, Shard(**fields), about
