"""Tables as people's programs write them, and what their columns mean."""

import json
import logging
import os
import re
from pathlib import Path

import pytest

from datamodules.annotations import RecordRules, read_records
from datamodules.rows import read_rows
from datamodules.rows.conversations import pairs_of, without_marks
from datamodules.rows.questions import answer_of, options_of, question_of, read_annotations
from datamodules.rows.text import read_text
from flexselect.structures.unicode_text import replace_surrogates

QUESTION = "Où est le café ?"
CSV = f"id,video,question\n1,a.mp4,{QUESTION}\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
@pytest.mark.parametrize("kind", ["csv", "json", "jsonl"])
def test_encodings(tmp_path, kind, encoding):
    rows = [{"id": "1", "video": "a.mp4", "question": QUESTION}]
    text = {"csv": CSV, "json": json.dumps(rows, ensure_ascii=False), "jsonl": json.dumps(rows[0], ensure_ascii=False)}
    path = tmp_path / f"rows.{kind}"
    path.write_bytes(text[kind].encode(encoding))
    assert read_rows(str(path)) == rows and read_rows(str(path), encoding) == rows


OLDER = {"gb18030": "这是什么颜色？请回答", "shift_jis": "丸は何色ですか？この人は", "cp1251": "Какого цвета?"}


@pytest.mark.parametrize(("encoding", "text"), OLDER.items())
def test_older_encodings_are_guessed_and_said(tmp_path, caplog, encoding, text):
    text = f"id,q\n1,{text}\n"
    (tmp_path / "rows.csv").write_bytes(text.encode(encoding))
    assert read_text(tmp_path / "rows.csv") == text
    assert "is not UTF-8 and is read as" in caplog.text and "--data.encoding" in caplog.text


def test_a_damaged_byte_is_in_its_row_alone(tmp_path, caplog):
    text = "".join(f"{i},a.mp4,这是什么颜色？\n" for i in range(20)).encode()
    (tmp_path / "rows.csv").write_bytes(b"id,video,question\n" + text + b"20,a.mp4,\xe8\xbf?\n")
    rows = read_rows(str(tmp_path / "rows.csv"))
    assert rows[7]["question"] == "这是什么颜色？" and rows[20]["question"] == "\ufffd?"
    assert "1 characters are not UTF-8, the first in line 22" in caplog.text


def test_an_encoding_that_does_not_fit_is_named(tmp_path):
    (tmp_path / "rows.csv").write_bytes(CSV.encode("cp1252"))
    with pytest.raises(ValueError, match=r"rows\.csv, line 2: is not utf-8"):
        read_rows(str(tmp_path / "rows.csv"), "utf-8")


# -- CSV


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_separators_and_line_ends(tmp_path, separator, end):
    cells = [["id", "video", "question"], ["005", "a.mp4", '"What, or; which?\nThis ""one"""'], ["NA", "b.mp4", "None"]]
    text = end.join(separator.join(line) for line in cells)
    (tmp_path / "rows.csv").write_text(text, newline="")
    assert read_rows(str(tmp_path / "rows.csv")) == [
        {"id": "005", "video": "a.mp4", "question": 'What, or; which?\nThis "one"'},
        {"id": "NA", "video": "b.mp4", "question": "None"},
    ]


def test_what_spreadsheets_add(tmp_path):
    (tmp_path / "rows.csv").write_text("sep=;\nid; video ;question;;\n1;a.mp4;Why?;;\n;;;;\n")
    assert read_rows(str(tmp_path / "rows.csv")) == [{"id": "1", "video": "a.mp4", "question": "Why?"}]
    (tmp_path / "rows.tsv").write_text("id\tvideo\tquestion\n1\ta.mp4\tRed, or blue?\n")
    assert read_rows(str(tmp_path / "rows.tsv"))[0]["question"] == "Red, or blue?"


def test_long_cells(tmp_path):
    (tmp_path / "rows.csv").write_text(f"id,video,question\n1,a.mp4,{'x' * 300_000}\n")
    assert len(read_rows(str(tmp_path / "rows.csv"))[0]["question"]) == 300_000


def test_rows_of_another_length(tmp_path):
    (tmp_path / "rows.csv").write_text("id,video,question\n1,a.mp4,red, or blue?\n2,a.mp4\n3,a.mp4,Why?\n")
    errors = [question.error for question in read_annotations(str(tmp_path / "rows.csv"))]
    assert errors[0].startswith("row 1 of the annotations has 4 cells, the first line names 3")
    assert errors[1:] == ["row 2 of the annotations has no question", None]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('id,video,question\n1,a.mp4,"Why?\n2,a.mp4,So?\n', "a quote is opened and never closed: 'Why?"),
        ("id,video,question,id\n1,a.mp4,Why?,2\n", "has two columns named 'id'"),
    ],
)
def test_a_broken_csv_is_named(tmp_path, text, said):
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"rows\.csv: {said}"):
        read_rows(str(tmp_path / "rows.csv"))


# -- JSON and Parquet


def test_values_stay_as_they_are_written(tmp_path):
    (tmp_path / "rows.jsonl").write_text(
        '{"id": "2024-05-01", "answer": "005", "n": 2.50, "nan": NaN, "list": [1.10, null], "late": null}\n'
        + '{"id": "x", "answer": "y", "late": null}\n' * 3
        + '{"id": "x", "answer": "y", "late": "a text after many nulls"}\n'
    )
    first, *_, last = read_rows(str(tmp_path / "rows.jsonl"))
    assert (first["id"], first["answer"], str(first["n"]), first["n"] * 2) == ("2024-05-01", "005", "2.50", 5.0)
    assert first["nan"] is None and str(first["list"][0]) == "1.10" and last["late"] == "a text after many nulls"


def test_an_edited_file_is_read_anew(tmp_path, monkeypatch):
    """With its time kept, as rsync -t does; and no cache of a library is in between, nor need it be writable."""
    monkeypatch.setattr("datasets.load_dataset", None)
    path = tmp_path / "rows.jsonl"
    for question in ("Why?", "How?"):
        path.write_text(json.dumps({"id": "1", "video": "a.mp4", "question": question}))
        os.utime(path, ns=(10**18, 10**18))
        assert read_rows(str(path))[0]["question"] == question


def test_nothing_is_in_parquet_as_text(tmp_path):
    import pyarrow
    from pyarrow.parquet import write_table

    table = {"id": ["005", "6"], "answer": [None, "x"], "score": [float("nan"), 1.5], "options": [["a", "b"], None]}
    write_table(pyarrow.table(table), tmp_path / "rows.parquet")
    assert read_rows(str(tmp_path / "rows.parquet")) == [
        {"id": "005", "answer": None, "score": None, "options": ["a", "b"]},
        {"id": "6", "answer": "x", "score": 1.5, "options": None},
    ]
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "rows.parquet").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cut\.parquet: cannot be read as annotations"):
        read_rows(str(tmp_path / "cut.parquet"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '[{"id": 1}, {"id": 2}]'),
        ("a.json", '{"data": [{"id": 1}, {"id": 2}], "version": 3}'),
        ("a.json", '{"id": 1}\n{"id": 2}\n'),
        ("a.jsonl", '[\n  {"id": 1},\n  {"id": 2}\n]'),
        ("a.jsonl", '\n{"id": 1}\r\n\r\n{"id": 2}'),
        ("a.ndjson", '{"id": 1}\n{"id": 2}\n'),
    ],
)
def test_rows_in_every_form_of_json(tmp_path, name, text):
    (tmp_path / name).write_text(text, newline="")
    assert read_rows(str(tmp_path / name)) == [{"id": 1}, {"id": 2}]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "[1, 2]", r"a\.json, record 1: is a number, not an object with columns"),
        ("a.json", '"x"', r"a\.json: holds a text, not a list of rows"),
        ("a.json", '{"a": [{"id": 1}], "b": [{"id": 2}]}', r"a\.json: holds lists of rows under a, b; known is a list"),
        ("a.json", '{"id": {"0": 1}}', r"a\.json: holds an object with id; known is .*orient='records'"),
        ("a.json", "[" * 100_000, r"a\.json: cannot be read as annotations"),
        ("a.jsonl", '{"id": 1}\n{"id": ', r"a\.jsonl, line 2: cannot be read as annotations"),
        ("a.jsonl", '{"id": 1}\n' + "9" * 5000, r"a\.jsonl, line 2: cannot be read as annotations"),
    ],
)
def test_broken_json_is_named(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=said):
        read_rows(str(tmp_path / name))


def test_halves_of_pairs():
    assert (
        replace_surrogates("a\ud83d\ude00b\ud83dc\ude00") == "a\U0001f600b\ufffdc\ufffd"
        and replace_surrogates("ab") == "ab"
    )


# -- options and answers


@pytest.mark.parametrize(
    "value",
    [
        ["red", "blue"],
        ("red", "blue"),
        ["red", "blue", None, None],
        {"A": "red", "B": "blue"},
        "red|blue",
        "red\nblue",
        "['red', 'blue']",
        '["red", "blue"]',
        ["A. red", "B. blue"],
        ["(A) red", "(B) blue"],
        "A. red\nB. blue",
    ],
)
def test_options_in_every_form(value):
    assert options_of(value) == ("red", "blue")


def test_options_that_look_like_letters_stay():
    assert options_of(["B. Brown", "A. Adams"]) == ("B. Brown", "A. Adams") and options_of(["A", "B"]) == ("A", "B")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (["a"], "a list of two or more"),
        ({"x": "a", "y": "b"}, "a list of two or more"),
        (["a", {"b": 1}], "must be texts"),
        (["a", None, "b"], "must be texts"),
        ([str(i) for i in range(27)], "27 options are too many: letters end at Z"),
    ],
)
def test_options_that_are_none(value, said):
    with pytest.raises(ValueError, match=said):
        options_of(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("red", "red"),
        (5, "5"),
        (None, None),
        (["red", 5, None], ("red", "5")),
        ('["red", "violet"]', ("red", "violet", '["red", "violet"]')),
        ("[1, 2]", "[1, 2]"),
        ("[unclear]", "[unclear]"),
    ],
)
def test_answers_in_every_form(value, expected):
    assert answer_of(value) == expected


@pytest.mark.parametrize("value", [{}, [], [None], [["a"]]])
def test_answers_that_are_none(value):
    with pytest.raises(ValueError, match="the answer must be a text, or a list of accepted texts"):
        answer_of(value)


def test_other_names_of_a_part():
    row = {"id": "1", "video": "a.mp4", "question": "Why?", "video_start": "1.5", "video_end": 4}
    reading = question_of(row).reading
    assert (reading.start, reading.end) == (1.5, 4.0)


def test_groups_by_themselves_are_few_short_words(tmp_path):
    remarks = ("a b c d e f", "g h i j k l")
    rows = [
        {"id": str(i), "video": "a.mp4", "question": f"Q{i}?", "answer": "x", "kind": "ab"[i % 2], "number": i % 3}
        | {"url": f"https://x.org/{i % 2}/{'y' * 60}", "digits": str(i % 2), "name": f"n{i}", "same": "one"}
        | {"remark": remarks[i % 2], "some": ["p", "q", None][i % 3]}
        for i in range(12)
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    result = read_annotations(str(tmp_path / "rows.json"))
    assert dict(result[1].groups) == {"kind": "b", "some": "q"} and dict(result[2].groups) == {"kind": "a"}
    assert dict(read_annotations(str(tmp_path / "rows.json"), groups=["number"])[4].groups) == {"number": "1"}
    assert read_annotations(str(tmp_path / "rows.json"), groups=[])[0].groups == ()


# -- conversations

TURNS = [("system", "Watch."), ("human", "<image>\nQ1?"), ("gpt", "A1."), ("human", "Q2?"), ("gpt", "A2.")]
TURNS.append(("human", "Q3?"))
ROLES = {"system": "system", "human": "user", "gpt": "assistant"}
FORMS = {
    "from and value": lambda: [{"from": role, "value": text} for role, text in TURNS],
    "role and content": lambda: [{"role": ROLES[role], "content": text} for role, text in TURNS],
    "parts": lambda: [
        {"role": ROLES[r], "content": [{"type": "video"}, {"type": "text", "text": t}]} for r, t in TURNS
    ],
    "text": lambda: json.dumps([{"from": role, "value": text} for role, text in TURNS]),
}


@pytest.mark.parametrize("form", FORMS)
def test_pairs_of_a_conversation(form):
    assert pairs_of(FORMS[form]()) == [("Q1?", "A1.")]
    assert pairs_of(FORMS[form](), all_turns=True) == [("Q1?", "A1."), ("Q2?", "A2.")]


def test_a_greeting_and_a_question_in_two_turns():
    turns = [("gpt", "Hello."), ("human", "<video>"), ("human", "Why?"), ("gpt", "So.")]
    assert pairs_of([{"from": role, "value": text} for role, text in turns]) == [("Why?", "So.")]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("hello", "a text that is no JSON"),
        (5, "is int, not a list of turns"),
        (["x"], "turn 1 is 'x', not an object"),
        ([{"from": "human", "value": None}], "turn 1 has None for its text"),
        ([{"from": "narrator", "value": "x"}], "turn 1 has the role 'narrator'"),
        ([{"speaker": "human", "text": "x"}], "turn 1 has the keys speaker, text"),
        ([{"from": "system", "value": "x"}], "asks nothing: found turns of system"),
        ([], "asks nothing: found no turns"),
    ],
)
def test_what_is_no_conversation_is_told(value, said):
    with pytest.raises(ValueError, match=f"{said}.*known are turns"):
        pairs_of(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<image>\nWhy?", "Why?"),
        ("<video>Why?", "Why?"),
        ("Why?\n<video>", "Why?"),
        ("<image><image>\n<image> Why?", "Why?"),
        ("One\n<video>\ntwo", "One\n\ntwo"),
        ("What does the <video> tag do?", "What does the <video> tag do?"),
    ],
)
def test_marks_are_taken_out_where_sets_put_them(text, expected):
    assert without_marks(text) == expected


def test_rows_that_are_no_question_about_a_video(tmp_path, caplog):
    rows = [
        {"image": "a.jpg", "conversations": [{"from": "human", "value": "Why?"}]},
        {"video": "a.mp4", "conversations": [{"from": "human", "value": "Why?"}]},
        {"videos": ["b.mp4"], "messages": [{"role": "user", "content": "How?"}]},
    ]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=r"train\.json, record 1: has no video.*about an image.*--data\.unusable skip"):
        read_records(str(tmp_path / "train.json"))
    caplog.set_level(logging.WARNING)
    records = read_records(str(tmp_path / "train.json"), rules=RecordRules(unusable="skip"))
    assert [(record.video, record.question) for record in records] == [("a.mp4", "Why?"), ("b.mp4", "How?")]
    assert "1 of" in caplog.text and "rows are left out" in caplog.text


def test_every_turn_and_other_columns(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"video": "a.mp4", "conversations": FORMS["from and value"]()}]))
    records = read_records(str(tmp_path / "a.json"), rules=RecordRules(turns="all"))
    assert [record.question for record in records] == ["Q1?", "Q2?"]
    (tmp_path / "b.csv").write_text("clip;prompt;label\nb.mp4;Why?;So.\n")
    columns = {"video": "clip", "question": "prompt", "answer": "label"}
    (record,) = read_records(str(tmp_path / "b.csv"), rules=RecordRules(columns=columns))
    assert (record.video, record.question, record.answer) == ("b.mp4", "Why?", "So.")
    with pytest.raises(ValueError, match="a name in columns must be one of"):
        RecordRules(columns={"quest": "prompt"})


# -- texts in every room


def test_every_file_of_text_says_its_encoding():
    """Else a machine's settings decide, and what one writes another cannot read."""
    root = Path(__file__).parents[2]
    rooms = ("flexselect", "datamodules", "lightning_modules", "flexselect_lmms")
    files = [file for room in rooms for file in (root / room).rglob("*.py")] + [root / "cli.py"]
    silent = re.compile(r"\.(?:read_text\(\)|write_text\((?!.*encoding)|open\(\)|open\(\"[arw]\"\))")
    assert silent.search("path.read_text()") and silent.search('path.write_text("x")') and silent.search('p.open("a")')
    assert not [file for file in files for line in file.read_text(encoding="utf-8").split("\n") if silent.search(line)]
    cut = re.compile(r"read_text\([^)]*\)\.splitlines\(\)")
    assert cut.search('x.read_text(encoding="utf-8").splitlines()')
    assert not [file for file in files if cut.search(file.read_text(encoding="utf-8"))], "lines end at the line feed"


def test_another_part_or_other_options_under_the_same_id_are_asked(tmp_path, caplog):
    row = {"id": "1", "video": "a.mp4", "question": "Q?", "start": 0, "end": 5}
    rows = [row, {**row, "end": 9}, row, {**row, "options": ["red", "blue"]}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    result = read_annotations(str(path))
    assert [question.id for question in result] == ["1", "1#row-2", "1#row-3", "1#row-4"]
    repeats = "row 3 of the annotations repeats id, video and question of row 1"
    assert [question.error for question in result] == [None, None, repeats, None]
    assert (
        "2 rows repeat another row's id with other options or another part: they get new ids, for example 1#row-2"
        in caplog.text
    )


def test_values_of_another_kind_are_named():
    for name, value in (("question", ["a", "b"]), ("video", ["a.mp4"]), ("id", {"a": 1})):
        row = {"id": "1", "video": "a.mp4", "question": "Q?", name: value}
        assert question_of(row).error == f"row 1 of the annotations: {name} must be a text, got {value!r}"
    with pytest.raises(ValueError, match=r"must be a list of two or more, got \['red', None\]"):
        options_of(["red", None])


def test_rows_that_contradict_themselves_are_named():
    row = {"id": "1", "video": "a.mp4", "question": "What?"}
    for more, said in (
        ({"start": 5, "video_start": 6}, "start and video_start are two names of one column: give one of them"),
        ({"moments": [[1, 2]], "span": [1, 2]}, "moments and span are two names of one column"),
        ({"moments": [[1, 2]], "absent": True}, "it has moments, and says absent"),
        ({"start": True}, "start must be seconds, or hours:minutes:seconds, got True"),
        ({"moments": [[True, 2]]}, "moments must be pairs of seconds"),
    ):
        assert said in question_of(row | more).error
    assert question_of(row | {"start": 5, "video_end": 6}).error is None
