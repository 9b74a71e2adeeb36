"""Read text files of any encoding."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from statistics import median

from charset_normalizer import from_bytes

log = logging.getLogger(__name__)

MARKS = {  # byte order marks, longest first
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
OLDER = ["cp1252", "gb18030", "shift_jis", "cp1251", "euc_kr", "big5"]  # common encodings of older programs
DAMAGED = 0.2  # a UTF-8 file may have at most this share of broken characters


def read_text(path: Path, encoding: str | None = None) -> str:
    """Read a text file; encodings other than UTF-8 and UTF-16 are guessed, with a warning.

    Args:
        path: the file.
        encoding: the file's encoding; None: detected from the first bytes.

    Raises:
        ValueError: if the encoding is unknown or does not fit; naming the file.
        OSError: if the file cannot be read.
    """
    data = path.read_bytes()
    if encoding is None:
        marked = next((name for mark, name in MARKS.items() if data.startswith(mark)), None)
        encoding = marked or _unmarked_encoding(data)
    if encoding is None:
        return _decode_by_guess(path, data)
    try:
        return data.decode(encoding)
    except LookupError as error:
        raise ValueError(
            f"{path}: there is no encoding {encoding!r}; give for example utf-8, cp1252 or gb18030"
        ) from error
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: is not {encoding}: {error.reason}; save it as UTF-8") from error


def _unmarked_encoding(data: bytes) -> str | None:
    """Return the encoding of text without a byte order mark: UTF-8, or UTF-16 by its zero bytes; None if neither."""
    half = len(data) // 2
    if data[1::2].count(0) > half / 2:
        return "utf-16-le"
    if data[::2].count(0) > half / 2:
        return "utf-16-be"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return "utf-8"


def _decode_by_guess(path: Path, data: bytes) -> str:
    """Decode text that is not UTF-8: damaged in places, or in an older encoding."""
    text = data.decode("utf-8", "replace")
    broken, foreign = text.count("\ufffd"), sum(character > "\x7f" for character in text)
    if broken < DAMAGED * foreign:
        line = text[: text.index("\ufffd")].count("\n") + 1
        log.warning(
            "%s: %d characters are not UTF-8, the first in line %d: they are read as \ufffd", path, broken, line
        )
        return text
    runs = [len(run) for run in re.findall(rb"[\x80-\xff]+", data)]
    # single accented letters say nothing about the encoding
    guess = None if median(runs) < 2 else from_bytes(data, cp_isolation=OLDER).best()
    name = "cp1252" if guess is None else guess.encoding
    log.warning("%s: is not UTF-8 and is read as %s; save it as UTF-8, or give --data.encoding", path, name)
    return data.decode(name, "replace")
