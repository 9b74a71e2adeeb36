import json

import pytest
import torch
from datasets import Dataset

from datamodules.question_data import group_by_video, share_of_process
from datamodules.rows.times import seconds_of
from datamodules.video_qa import VideoQADataModule, read_annotations
from flexselect.evaluation.questions import VideoQuestion
from flexselect.families import Qwen25VL

ROWS = [
    {"id": "1", "video": "a.mp4", "question": "Q1?", "options": ["x", "y"], "answer": "A"},
    {"id": "2", "video": "b.mp4", "question": "Q2?", "options": None, "answer": "red"},
    {"id": "3", "video": "a.mp4", "question": "Q3?", "options": None, "answer": None},
]


def written(folder, kind):
    path = folder / f"rows.{kind}"
    if kind == "json":
        path.write_text(json.dumps(ROWS))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif kind == "parquet":
        Dataset.from_list(ROWS).to_parquet(str(path))
    else:
        path.write_text("id,video,question,options,answer\n1,a.mp4,Q1?,x|y,A\n2,b.mp4,Q2?,,red\n3,a.mp4,Q3?,,\n")
    return path


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "parquet"])
def test_every_format_reads_the_same(tmp_path, kind):
    questions = read_annotations(str(written(tmp_path, kind)))
    assert [(q.id, q.video, q.question, q.options, q.answer, q.error) for q in questions] == [
        ("1", "a.mp4", "Q1?", ("x", "y"), "A", None),
        ("2", "b.mp4", "Q2?", (), "red", None),
        ("3", "a.mp4", "Q3?", (), None, None),
    ]


def test_rows_with_missing_fields_are_kept_with_their_reason(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"id": "1", "video": "a.mp4", "question": "Q?"}\n{"id": "2", "question": "Q?"}\n{"video": "a.mp4"}\n'
        '{"id": "4", "video": "a.mp4", "question": "  "}\n{"id": "1", "video": "a.mp4", "question": "Q?"}\n'
    )
    errors = [question.error for question in read_annotations(str(path))]
    assert errors == [
        None,
        "row 2 of the annotations has no video",
        "row 3 of the annotations has no id and no question",
        "the question is empty",
        "row 5 of the annotations repeats id, video and question of row 1",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.json", "{not json", "rows.json: cannot be read as annotations"),
        ("rows.txt", "hello", "cannot read this kind of file"),
        ("rows.jsonl", "", "rows.jsonl: holds no rows"),
    ],
)
def test_unreadable_annotations_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_annotations(str(tmp_path / name))


def test_missing_annotations_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such annotation file"):
        read_annotations(str(tmp_path / "none.jsonl"))


def test_grouping_and_sharing():
    questions = read_annotations_from(ROWS)
    grouped = group_by_video(questions)
    assert [q.id for q in grouped] == ["1", "3", "2"]
    parts = [share_of_process(grouped, rank, 2, {"a.mp4": 2.0, "b.mp4": 1.0}) for rank in range(2)]
    assert [[q.id for q in part] for part in parts] == [["1", "3"], ["2"]]
    assert share_of_process(grouped, 2, 3, {"a.mp4": 2.0, "b.mp4": 1.0}) == []


def test_work_is_shared_evenly():
    work = {f"{i}.mp4": float(size) for i, size in enumerate([7, 7, 6, 6, 5, 4, 4, 1])}
    questions = [VideoQuestion(video, video, "Q?") for video in work]
    parts = [share_of_process(questions, rank, 4, work) for rank in range(4)]
    assert sorted(q.id for part in parts for q in part) == sorted(work)
    assert [sum(work[q.video] for q in part) for part in parts] == [11.0, 8.0, 11.0, 10.0]  # in turns: 12, 11, 10, 7
    nothing = dict.fromkeys(work, 0.0)  # all answered
    assert all(len(share_of_process(questions, rank, 4, nothing)) == 2 for rank in range(4))


def test_work_counts_bytes_and_open_questions(checkpoint, tmp_path):
    for name, size in (("a.mp4", 300), ("b.mp4", 100)):
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    data = VideoQADataModule(Qwen25VL(str(checkpoint)), annotations=str(tmp_path / "rows.jsonl"))
    assert data.work() == pytest.approx({"a.mp4": 300 / 400 + 2 / 3, "b.mp4": 100 / 400 + 1 / 3})
    data.skip([question.key for question in data.questions if question.video == "a.mp4"])
    assert data.work() == {"a.mp4": 0.0, "b.mp4": 2.0}


def read_annotations_from(rows):
    from datamodules.rows.questions import question_of

    return [question_of(row, i) for i, row in enumerate(rows)]


def test_one_clip_a_video(checkpoint, videos):
    data = VideoQADataModule(Qwen25VL(str(checkpoint)), annotations=str(videos / "annotations.jsonl"), num_workers=0)
    items = list(data.predict_dataloader())
    assert [item.opens for item in items] == [True, False, False, False] * 2
    assert [item.stream is not None for item in items] == [True, False, False, False] * 2
    assert items[0].stream.num_frames == 12 and items[0].decode_seconds > 0


def test_a_worker_hands_over_what_the_main_process_would_decode(checkpoint, videos):
    arguments = {"family": Qwen25VL(str(checkpoint)), "annotations": str(videos / "annotations.jsonl")}
    (ahead, *_), (here, *_) = (list(VideoQADataModule(**arguments, num_workers=n).predict_dataloader()) for n in (1, 0))
    assert ahead.stream is None and ahead.clip.grid[0] == 6
    assert torch.equal(ahead.clip.pixels, here.stream.all_frames()) and torch.equal(
        ahead.clip.seconds, here.stream.seconds
    )


def test_no_video_is_decoded_for_answered_questions(checkpoint, videos):
    data = VideoQADataModule(Qwen25VL(str(checkpoint)), annotations=str(videos / "annotations.jsonl"), num_workers=0)
    data.skip([question.key for question in data.questions[:6]])
    items = list(data.predict_dataloader())
    assert [item.stream is not None for item in items] == [False] * 6 + [True, False]
    assert [item.opens for item in items] == [False] * 6 + [True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either"),
        ({"annotations": "a.jsonl", "video": "b.mp4", "question": "Q?"}, "give either"),
        ({"video": "b.mp4"}, "go together"),
    ],
)
def test_sources_that_do_not_go_together(checkpoint, options, message):
    with pytest.raises(ValueError, match=message):
        VideoQADataModule(Qwen25VL(str(checkpoint)), **options)


@pytest.mark.parametrize(
    ("options", "answer", "error"),
    [
        (3, None, "the options must be a list of two or more, got 3"),
        ("red", None, "the options must be a list of two or more, got ['red']"),
        ({"A": "red"}, None, "the options must be a list of two or more, got {'A': 'red'}"),
        ("[red, blue]", None, "the options '[red, blue]' are no list"),
        (["red", "blue"], "Z", "the answer 'Z' is none of its options"),
        ("['red', 'blue']", "b", None),
        ("red|blue", "blue", None),
        (["red", "blue"], None, None),
    ],
)
def test_options_of_a_row(options, answer, error):
    from datamodules.rows.questions import question_of

    row = question_of({"id": "1", "video": "a.mp4", "question": "Q?", "options": options, "answer": answer}, 6)
    assert row.error == (error and f"row 7 of the annotations: {error}")
    assert error or row.options == ("red", "blue")


def test_csv_values_are_taken_as_they_are_written(tmp_path):
    (tmp_path / "rows.csv").write_text('id,video,question,answer\n005,a.mp4,"Which, then?",NA\n6,a.mp4,None,1\n')
    first, second = read_annotations(str(tmp_path / "rows.csv"))
    assert (first.id, first.question, first.answer) == ("005", "Which, then?", "NA")
    assert (second.id, second.question, second.answer) == ("6", "None", "1")


@pytest.mark.parametrize("name", ["id", "video", "question"])
def test_a_column_that_no_row_has_is_told_once(tmp_path, name):
    row = {"id": "1", "video": "a.mp4", "question": "Q?"}
    row["other"] = row.pop(name)
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    output = rf"rows\.jsonl: has no column {name}; found .*other; .*--data\.columns '{{{name}: NAME}}'"
    with pytest.raises(ValueError, match=output):
        read_annotations(str(tmp_path / "rows.jsonl"))
    (question,) = read_annotations(str(tmp_path / "rows.jsonl"), {name: "other"})
    assert (question.id, question.video, question.question) == ("1", "a.mp4", "Q?")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(90, 90), ("90.5", 90.5), ("1:30", 90), ("00:01:30.5", 90.5), ("2:00:00", 7200), (" 0:05 ", 5)],
)
def test_times_as_people_write_them(value, seconds):
    assert seconds_of(value) == seconds


@pytest.mark.parametrize("value", ["soon", "1:75", "1:2:3:4", "1:30-1:40", "nan", "inf", [1], {}, ""])
def test_what_is_no_time(value):
    with pytest.raises((TypeError, ValueError)):
        seconds_of(value)


def test_an_option_that_is_there_twice_is_told(tmp_path, caplog):
    rows = [{"id": str(i), "video": "a.mp4", "question": "Q?", "options": ["red", ("blue", "red")[i]]} for i in (0, 1)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert [question.error for question in read_annotations(str(tmp_path / "rows.json"))] == [None, None]
    assert "rows.json: 1 rows have an option twice; the first: row 2, 'red'" in caplog.text


def test_a_file_that_is_named_twice_is_asked_about_once(checkpoint, tmp_path, caplog):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    named = [str(tmp_path / "b.mp4"), str(tmp_path), f"{tmp_path}/./b.mp4"]
    data = VideoQADataModule(Qwen25VL(str(checkpoint)), video=named, question="Q?")
    assert [question.id for question in data.questions] == ["b", "a"]
    assert "2 videos are named more than once" in caplog.text


def test_how_files_are_read_is_a_setting(checkpoint):
    arguments = {"family": Qwen25VL(str(checkpoint)), "video": "a.mp4", "question": "Q?"}
    settings = [
        VideoQADataModule(**arguments, **more).settings
        for more in ({}, {"track": 0}, {"square_pixels": False}, {"reader": "pyav"}, {"reader": "decord", "track": 1})
    ]
    assert settings == [{}, {"track": 0}, {"square_pixels": False}, {}, {"track": 1, "reader": "decord"}]


def test_a_file_without_the_columns_is_refused(tmp_path):
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"rows\.csv: has no columns id, video, question; found a, b"):
        read_annotations(str(tmp_path / "rows.csv"))
