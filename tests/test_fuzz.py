"""Damaged files give a result, or an error that names the file: a few here, thousands by `python -m bench.fuzz`."""

import json
from collections import Counter
from pathlib import Path

import pytest

from bench import fuzz

ROOT = Path(__file__).parents[1]
FILES = {"video": 36, "json": 40, "jsonl": 40, "csv": 40, "parquet": 12, "training": 30, "session": 6, "selector": 8}
FILES |= {"family": 6, "store": 30, "run": 30, "config": 6}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(fuzz, "SHARED", tmp_path_factory.mktemp("whole"))
        fuzz.prepare(list(fuzz.KINDS))
        yield


def test_every_kind_is_tried():
    assert set(FILES) == set(fuzz.KINDS)


@pytest.mark.parametrize("kind", FILES)
def test_damaged_files(prepared, tmp_path, kind):
    result = {}
    for seed in range(FILES[kind]):
        (tmp_path / str(seed)).mkdir()
        result[seed] = fuzz.outcome(kind, seed, tmp_path / str(seed))
    wrong = {seed: output for seed, output in result.items() if output not in ("result", "named error")}
    assert not wrong, json.dumps(wrong, indent=1)
    assert Counter(result.values())["named error"] > 0, "canary: some of them are refused"


def test_canary_what_is_wrong_is_seen(prepared, tmp_path, monkeypatch):
    for error, expected in ((KeyError("x"), "KeyError"), (ValueError("no name"), "unnamed"), (None, "result")):

        def read(path, error=error):
            if error:
                raise error

        monkeypatch.setitem(fuzz.KINDS, "csv", fuzz.Kind(None, read))
        assert fuzz.outcome("csv", 0, tmp_path).startswith(expected)
