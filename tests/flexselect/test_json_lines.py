"""Lines of JSON, whatever the texts in them, whatever a kill left."""

import json

import pytest

from flexselect.evaluation.results import merge_predictions, read_predictions
from flexselect.storage.json_lines import append_line, json_line, read_json_lines

ENDS = "\u2028 \u2029 \x85 \x0b \x0c \x1c \x1d \x1e \r"


def test_other_line_ends_are_text(tmp_path):
    rows = [{"id": str(i), "text": ENDS, "half": "\udc96"} for i in range(3)]
    for row in rows:
        append_line(tmp_path / "a.jsonl", row)
    assert read_json_lines(tmp_path / "a.jsonl") == (rows, [])
    assert len((tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()) == 3, "for other readers"
    raw = json.dumps({"text": ENDS}, ensure_ascii=False) + "\n"
    (tmp_path / "b.jsonl").write_text(raw, encoding="utf-8", newline="")
    assert read_json_lines(tmp_path / "b.jsonl") == ([{"text": ENDS}], [])


def test_texts_stay_readable():
    assert json_line({"a": "紫色é\U0001f600"}) == '{"a": "紫色é\U0001f600"}\n'


def test_what_a_kill_left(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"a": 1}\n\n{"b\n{"c": 3}\n{"d": ')
    assert read_json_lines(file) == ([{"a": 1}, {"c": 3}], [b'{"b'])
    append_line(file, {"e": 5})
    assert read_json_lines(file) == ([{"a": 1}, {"c": 3}, {"e": 5}], [b'{"b', b'{"d": '])
    file.write_bytes(b'{"a": 1}')
    assert read_json_lines(file)[0] == [{"a": 1}], "a last line without its end is whole all the same"
    assert read_json_lines(tmp_path / "none.jsonl") == ([], [])


def test_a_disk_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(OSError, match="Is a directory; what was written stays, call again to go on"):
        append_line(tmp_path, {})


def test_predictions_are_merged_and_nothing_is_deleted_unread(tmp_path):
    def row(number, answer):
        return {"id": str(number), "video": "a.mp4", "question": "Q?", "answer": answer, "error": None}

    (tmp_path / "predictions.jsonl").write_text(json_line(row(1, "old")) + '"a text"\n')
    (tmp_path / "part-0.jsonl").write_text(json_line(row(1, "new")) + '{"id": 5}\n')
    (tmp_path / "part-1.jsonl").write_text(json_line(row(2, "x")) + "{")
    rows = read_predictions(tmp_path)
    assert [(one["id"], one["answer"]) for one in rows] == [("1", "new"), ("2", "x")]
    merge_predictions(tmp_path, rows)
    assert read_json_lines(tmp_path / "predictions.jsonl")[0] == rows and not list(tmp_path.glob("part-*"))
    assert (tmp_path / "unreadable.jsonl").read_text() == '"a text"\n{"id": 5}\n'
