"""The example of docs/scale_out.md, run as it is written but for the model, the files and the machine."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from flexselect import FlexSelect
from tests import tiny

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(find_spec("ray") is None, reason="NOT CHECKED: Ray is not installed (extra ray)")
def test_the_example_of_ray_data(videos, tmp_path):
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "scale_out.md").read_text(), re.M | re.S)
    lines = (videos / "annotations.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    table = tmp_path / "annotations.jsonl"
    broken = {"id": "broken", "video": "broken.mp4", "question": "Why?"}
    (tmp_path / "broken.mp4").write_text("no video")
    for row in rows:
        row["video"] = str(videos / row["video"])
    table.write_text("".join(json.dumps(row) + "\n" for row in [*rows, broken]))
    for old, new in (
        ('"Qwen/Qwen2.5-VL-7B-Instruct"', repr(str(tiny.DEMO))),
        ('"videos/annotations.jsonl"', repr(str(table))),
        ('"outputs/ray"', repr(str(tmp_path / "out"))),
        ('{"selector": "self"}', '{"selector": "self", "dtype": "float32"}'),
        ("WORKERS, GPUS = 8, 1", "WORKERS, GPUS = 1, 0"),
    ):
        assert old in code, "the example has changed"
        code = code.replace(old, new)
    alone = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "PYTHONPATH": str(ROOT)}
    begin = "import ray\nray.init(num_cpus=2, include_dashboard=False, object_store_memory=100_000_000)\n"
    run = subprocess.run(
        [sys.executable, "-c", begin + code], env={**os.environ, **alone}, cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]

    from pyarrow import parquet

    answered = {row["id"]: row for row in parquet.read_table(tmp_path / "out").to_pylist()}
    assert set(answered) == {*(row["id"] for row in rows), "broken"}
    assert answered["broken"]["answer"] == "" and "broken.mp4" in answered["broken"]["error"]
    fs = FlexSelect.from_pretrained(str(tiny.DEMO), selector="self", dtype="float32")
    for row in rows:
        assert answered[row["id"]]["error"] == ""
        assert answered[row["id"]]["answer"] == fs.open(row["video"]).ask(row["question"]).text
