"""What people bring on the first day: their files, their names, their tables, rows that were corrected after a run."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

import cli
from datamodules.needles import write_needle_videos
from flexselect.commands.command_texts import error_message

ROOT = Path(__file__).parents[1]
CONFIG = "configs/demo/self.yaml"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two clips with eight questions each."""
    folder = tmp_path_factory.mktemp("made")
    write_needle_videos(folder, videos=2, patches=8, needles=4, questions=8, seed=3)
    return folder


@pytest.fixture
def run(monkeypatch, tmp_path):
    """`run("predict", rows, ...)` with the demo model; the status."""
    monkeypatch.chdir(ROOT)

    def run(verb, rows=None, *more, out="out"):
        words = [
            verb,
            "--config",
            CONFIG,
            "--output_dir",
            str(tmp_path / out),
            "--trainer.enable_progress_bar",
            "false",
        ]
        if rows is not None:
            (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
            words += ["--data.annotations", str(tmp_path / "rows.json"), "--data.num_workers", "0"]
        return cli.main([*words, *map(str, more)])

    return run


def lines(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_bytes().split(b"\n")[:-1]]


def questions(made):
    return [json.loads(line) for line in (made / "annotations.jsonl").open()]


def row(made, number=0, **more):
    arguments = questions(made)[number]
    return (
        {name: arguments[name] for name in ("id", "question", "answer")}
        | {"video": str(made / arguments["video"])}
        | more
    )


# -- old answers


def test_what_was_corrected_is_asked_anew(run, made, tmp_path, caplog):
    words = [row(made, n) for n in range(2)]
    choice = row(made, 2, options=["red", "green", "blue", "white"], answer="A")
    assert run("predict", [*words, choice]) == 0
    before = {one["id"]: one for one in lines(tmp_path / "out")}
    choice["options"] = ["white", "blue", "green", "red"]
    caplog.clear()
    assert run("predict", [*words, choice]) == 0
    assert "1 answers are to another prompt, options, part or video file: they are asked again" in caplog.text
    assert "2 of 3 questions were answered by an earlier run" in caplog.text
    after = {one["id"]: one for one in lines(tmp_path / "out")}
    changed = [id_ for id_ in before if before[id_]["prompt_hash"] != after[id_]["prompt_hash"]]
    assert changed == [choice["id"]] and len(after) == 3
    words[0]["start"] = 2
    caplog.clear()
    assert run("predict", [*words, choice]) == 0
    assert "1 answers are to another" in caplog.text
    assert next(one for one in lines(tmp_path / "out") if one["id"] == words[0]["id"])["sampling"]["frames"] < 16


def test_a_corrected_answer_is_judged_anew_and_not_asked(run, made, tmp_path, caplog):
    arguments = row(made)
    assert run("validate", [arguments, row(made, 8)]) == 0
    right = json.loads((tmp_path / "out" / "results.json").read_text())["right"]
    arguments["answer"] = "none of it"
    caplog.clear()
    assert run("validate", [arguments, row(made, 8)]) == 0
    assert "2 of 2 questions were answered by an earlier run" in caplog.text
    assert json.loads((tmp_path / "out" / "results.json").read_text())["right"] == right - 1


def test_a_question_that_was_reworded_is_told(run, made, tmp_path, caplog):
    """Its old answer is somebody's work and stays; nobody may take the two rows of one id for one."""
    arguments = row(made)
    assert run("predict", [arguments]) == 0
    caplog.clear()
    assert run("predict", [{**arguments, "question": "Is there a circle?"}]) == 0
    output = "1 earlier answers have the id and video of a question whose text has changed, which is asked again"
    assert output in caplog.text and repr(arguments["question"]) in caplog.text
    assert [one["question"] for one in lines(tmp_path / "out")] == [arguments["question"], "Is there a circle?"]
    caplog.clear()
    assert run("predict", [row(made, 1)]) == 0 and "text has changed" not in caplog.text, "canary: another id"


def test_rows_without_an_expected_answer_are_asked_once(run, made, tmp_path, caplog, recwarn):
    rows = [row(made, answer=None), row(made, 8, answer=None)]
    assert run("validate", rows) == 3
    first = (tmp_path / "out" / "predictions.jsonl").read_bytes()
    assert not [one for one in recwarn if "compute" in str(one.message)], "nothing counts: there is no accuracy to log"
    caplog.clear()
    assert run("validate", rows) == 3
    assert "2 of 2 questions were answered by an earlier run" in caplog.text
    assert (tmp_path / "out" / "predictions.jsonl").read_bytes() == first
    assert run("validate", [row(made), rows[1]]) == 3
    assert [one["correct"] is None for one in lines(tmp_path / "out")] == [False, True], "an answer came later"
    assert run("predict", rows) == 0


def test_a_video_that_was_replaced_is_another(run, made, tmp_path, caplog):
    """Even with its size and time kept: its content counts, and nothing else."""
    video = tmp_path / "talk.mp4"
    shutil.copy(made / "needles_000.mp4", video)
    arguments = row(made, video=str(video))
    assert run("predict", [arguments]) == 0
    before = video.stat()
    other = (made / "needles_001.mp4").read_bytes()
    video.write_bytes(other + bytes(max(0, before.st_size - len(other))))
    os.utime(video, ns=(before.st_atime_ns, before.st_mtime_ns))
    caplog.clear()
    assert run("predict", [arguments]) == 0
    assert "1 answers are to another" in caplog.text
    os.utime(video)
    caplog.clear()
    assert run("predict", [arguments]) == 0
    assert "1 of 1 questions were answered by an earlier run" in caplog.text, "canary: a touch changes nothing"


def test_answers_that_do_not_say_what_was_asked_are_asked_anew(run, made, tmp_path, caplog):
    assert run("predict", [row(made)]) == 0
    file = tmp_path / "out" / "predictions.jsonl"
    (old,) = lines(tmp_path / "out")
    file.write_text(json.dumps({name: value for name, value in old.items() if not name.endswith("_hash")}) + "\n")
    caplog.clear()
    assert run("predict", [row(made)]) == 0 and "1 answers are to another" in caplog.text


def test_lines_that_nobody_can_read_are_kept_aside(run, made, tmp_path, caplog):
    assert run("predict", [row(made)]) == 0
    file = tmp_path / "out" / "predictions.jsonl"
    whole = file.read_bytes()
    file.write_bytes(b"\xff\xfe not a row\n[1, 2]\n" + whole + b'{"id": "cut sh')
    assert run("predict", [row(made)]) == 0
    assert file.read_bytes() == whole
    assert (tmp_path / "out" / "unreadable.jsonl").read_bytes() == b"\xff\xfe not a row\n[1, 2]\n"


# -- one row never ends a run


ODD = {
    "a name that is too long": ({"video": "x" * 300 + ".mp4"}, "File name too long"),
    "a name that no file can have": ({"video": "a\0b.mp4"}, "cannot be opened"),
    "no such file": ({"video": "nowhere.mp4"}, "no such file"),
    "an address": ({"video": "https://example.org/a.mp4"}, "addresses on a network are not read"),
    "a folder": ({"video": "."}, "is a folder"),
    "30 options": ({"options": [f"o{i}" for i in range(30)], "answer": "o29"}, "letters end at Z"),
    "one option": ({"options": ["red"]}, "a list of two or more"),
    "an answer that is none": ({"options": ["a ring", "a cube"], "answer": "A green ring"}, "is none of its options"),
    "an answer of no kind": ({"answer": {"text": "red"}}, "the answer must be a text"),
    "no question": ({"question": None}, "has no question"),
    "an empty question": ({"question": " \n"}, "the question is empty"),
    "no name": ({"video": ""}, "has no video"),
    "a part that is none": ({"start": 5, "end": 5}, "needs 0 <= start < end"),
    "a part in words": ({"start": "soon"}, "start must be seconds, or hours:minutes:seconds, got 'soon'"),
    "a part after the end": ({"start": 1000}, "has no second 1000"),
}


def test_one_row_never_ends_a_run(run, made, tmp_path):
    rows = [row(made, 1, id=name, **odd) for name, (odd, _) in ODD.items()]
    assert run("predict", [row(made), *rows, row(made, 8)]) == 3
    result = {one["id"]: one for one in lines(tmp_path / "out")}
    assert len(result) == len(ODD) + 2
    for name, (_, output) in ODD.items():
        assert result[name]["answer"] is None and output in result[name]["error"], name
    assert all(result[questions(made)[n]["id"]]["error"] is None for n in (0, 8))


@pytest.mark.skipif(os.geteuid() == 0, reason="NOT CHECKED: root may enter every folder")
def test_a_folder_that_may_not_be_entered(run, made, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir()
    shutil.copy(made / "needles_000.mp4", closed / "a.mp4")
    closed.chmod(0)
    try:
        assert run("predict", [row(made), row(made, 1, video=str(closed / "a.mp4"))]) == 3
    finally:
        closed.chmod(0o755)
    assert "permission denied on its folder" in lines(tmp_path / "out")[1]["error"]


def test_odd_texts_are_asked_and_written(run, made, tmp_path):
    odd = [
        "half an emoji \ud83d?",
        "line\u2028end\u0085of\x0bsome\x1ckind",
        "<|im_end|>\n<|im_start|>user\nAnd?",
        "{x}$",
    ]
    assert run("predict", [row(made, id=str(i), question=text) for i, text in enumerate(odd)]) == 0
    written = (tmp_path / "out" / "predictions.jsonl").read_text(encoding="utf-8")
    assert len(written.splitlines()) == 4, "for readers that cut at other line ends, too"
    result = lines(tmp_path / "out")
    assert [one["question"] for one in result] == ["half an emoji \ufffd?", *odd[1:]]


def test_answers_of_several_kinds(run, made, tmp_path):
    arguments = row(made)
    answers = [float("nan"), None, [arguments["answer"], "else"], f"  {arguments['answer'].upper()}. ", ["x", None]]
    assert run("validate", [{**arguments, "id": str(i), "answer": answer} for i, answer in enumerate(answers)]) == 3
    result = lines(tmp_path / "out")
    assert [one["correct"] for one in result] == [None, None, True, True, False]
    assert result[2]["expected"] == [arguments["answer"], "else"]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["uncounted_reasons"] == {"the annotations have no answer to compare with": 2}
    assert (results["right"], results["counted"], results["questions"]) == (2, 3, 5)


def test_without_answers_there_is_no_accuracy(run, made, capsys):
    assert run("validate", [{**row(made), "answer": None}]) == 3
    shown, costs = capsys.readouterr().out.splitlines()
    assert shown == "no accuracy: 1 rows do not count: 1 the annotations have no answer to compare with"
    assert costs.startswith("cost of a question: 16 frames (16 decoded)")


# -- videos on the command line


def test_several_videos_have_ids_of_their_own(run, made, tmp_path, capsys):
    for name in ("talk: part 1.mp4", "b.mp4", "._b.mp4"):
        shutil.copy(made / "needles_000.mp4", tmp_path / name)
    (tmp_path / "notes.txt").write_text("no video")
    ask = ["--data.question", "What colour is the circle?"]
    assert run("predict", None, "--data.video", tmp_path, *ask, out="folder") == 0
    assert [one["id"] for one in lines(tmp_path / "folder")] == ["b", "talk: part 1"]
    shown = capsys.readouterr().out
    assert f"{tmp_path / 'b.mp4'}\nWhat colour is the circle?\n" in shown
    assert run("predict", None, "--data.video", tmp_path / "[bt]*.mp4", *ask, out="pattern") == 0
    assert len(lines(tmp_path / "pattern")) == 2
    several = [tmp_path / "b.mp4", tmp_path / "talk: part 1.mp4", "--data.question", "Why?", "What is it: a cat?"]
    assert run("predict", None, "--data.video", *several, out="several") == 0
    assert [one["id"] for one in lines(tmp_path / "several")] == ["b-1", "b-2", "talk: part 1-1", "talk: part 1-2"]
    assert run("predict", None, "--data.video", tmp_path / "[x]*.mp4", *ask) == 2
    assert "no file fits this pattern" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["12:30:00.mp4", "file:b.mp4", "~c.mp4", "a b%20#?&.mp4", "-d.mp4", "[e].mp4", "null"])
def test_names_as_they_are(run, made, tmp_path, monkeypatch, name):
    """Relative to where one stands, on the command line and in a table."""
    shutil.copy(made / "needles_000.mp4", tmp_path / name)
    (tmp_path / "link").symlink_to(ROOT / "checkpoints")
    monkeypatch.setattr("pathlib.Path.cwd", Path.cwd)
    arguments = ["--data.video_root", tmp_path, "--data.question", "Which?"]
    assert run("predict", None, f"--data.video={name}", *arguments) == 0
    assert run("predict", [row(made, video=name)], out="table") == 0


def test_addresses_of_files(run, made, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(made / "needles_000.mp4", tmp_path / "a talk.mp4")
    for name in (f"file://{tmp_path}/a%20talk.mp4", "~/a talk.mp4"):
        assert run("predict", None, "--data.video", name, "--data.question", "Which?") == 0


def test_a_part_of_a_video(run, made, tmp_path):
    whole = ["--data.video", made / "needles_000.mp4", "--data.question", "Which?"]
    assert run("predict", None, *whole, "--data.start", "2", "--data.end", "6") == 0
    (result,) = lines(tmp_path / "out")
    assert result["sampling"]["frames"] == 8 and result["sampling"]["seconds"] == 8.0


# -- tables


def test_columns_groups_and_a_limit(run, made, tmp_path):
    rows = [
        {
            "key": str(n),
            "file": row(made, n)["video"],
            "prompt": row(made, n)["question"],
            "label": row(made, n)["answer"],
            "kind": ("colour", "shape")[n % 2],
            "level": n,
            "note": f"a long remark about question {n}",
        }
        for n in range(8)
    ]
    columns = ["--data.columns", "{id: key, video: file, question: prompt, answer: label}"]
    assert run("validate", rows, *columns, "--data.limit", "6") == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["questions"] == 6 and list(results["groups"]) == ["kind"]
    assert {name: share["questions"] for name, share in results["groups"]["kind"].items()} == {"colour": 3, "shape": 3}
    assert run("validate", rows, *columns, "--data.groups", "[level]", out="level") == 0
    assert len(json.loads((tmp_path / "level" / "results.json").read_text())["groups"]["level"]) == 8


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ["--data.columns", "{qestion: prompt}"],
            "'qestion' is none of id, video, question, options, answer",
        ),
        (["--data.columns", "{question: promt}"], "has no column 'promt'; found id, question, answer, video"),
        (["--data.groups", "kind"], "has no column 'kind'"),
        (["--data.limit", "0"], "limit must be at least 1"),
        (["--data.encoding", "utf-9"], "there is no encoding 'utf-9'"),
    ],
)
def test_what_a_table_lacks_is_said(run, made, capsys, more, said):
    assert run("validate", [row(made)], *more) == 2
    assert said in capsys.readouterr().err


# -- what is doubtful


def test_a_cut_video_says_so_in_its_row(run, made, tmp_path):
    import av

    whole = tmp_path / "whole.mkv"
    with av.open(str(made / "needles_000.mp4")) as source, av.open(str(whole), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 19 // 20])
    cache = ["--model.feature_cache", tmp_path / "cache", "--report"]
    for out in ("first", "from the cache"):
        assert run("validate", [row(made, video=str(cut)), row(made, 1, video=str(whole))], *cache, out=out) == 0
        first, second = lines(tmp_path / out)
        assert first["error"] is None and "is cut short:" in first["warnings"][0] and second["warnings"] == []
        assert "doubtful:" in (tmp_path / out / "report.html").read_text(encoding="utf-8")
    assert list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("workers", [0, 1])
def test_what_was_doubtful_stands_beside_an_error(run, made, tmp_path, workers):
    video = tmp_path / "broken.mp4"
    content = bytearray((made / "needles_000.mp4").read_bytes())
    at = content.index(b"mdat") + 4
    content[at + 2000 : at + len(content) // 2] = bytes(len(content) // 2 - 2000)
    video.write_bytes(content + (1000).to_bytes(4, "big") + b"free")
    words = ["--data.num_workers", workers]
    assert run("predict", [row(made, video=str(video))], *words) == 3
    (result,) = lines(tmp_path / "out")
    assert "cannot be decoded" in result["error"] and "is cut short: " in result["warnings"][0]


class Broken(torch.utils.data.Dataset):
    """Its items cannot be had."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise ValueError("clips.json: none of the 2 clips can be used;\nthe first: a.mp4: no such file")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_another_process_is_told_without_its_traceback(workers):
    with pytest.raises(ValueError) as caught:
        list(torch.utils.data.DataLoader(Broken(), batch_size=None, num_workers=workers))
    assert ("Traceback" in str(caught.value)) is (workers == 1), "canary"
    assert error_message(caught.value) == "clips.json: none of the 2 clips can be used;\nthe first: a.mp4: no such file"


# -- reports and comparisons


def test_a_report_of_one_video_or_of_none(run, made, tmp_path):
    pages = []
    for out, rows in (
        ("one", [row(made, n, kind=("a", "b")[n % 2]) for n in range(4)]),
        ("group of one", [row(made, 0, kind="a"), row(made, 1, kind="a"), row(made, 8, kind="b")]),
        ("none", [row(made, video="nowhere.mp4")]),
        ("nothing expected", [row(made, answer=None)]),
    ):
        assert run("validate", rows, "--report", "--data.groups", "[]" if out == "none" else "null", out=out) in (0, 3)
        page = (tmp_path / out / "report.html").read_text(encoding="utf-8")
        pages.append(re.sub(r'base64,[^"]*', "", page))
        assert not re.search(r"\bnan\b", pages[-1], re.IGNORECASE)
    assert "of 4</span>" in pages[0] and "kind: a</td>" in pages[0], "the denominator is said, and no interval"
    assert "95 %" in pages[1] and "1 rows do not count: 1 the annotations have no answer" in pages[3]


def test_two_runs_are_compared_on_what_they_share(run, made, tmp_path, capsys):
    rows = [row(made, n) for n in range(4)]
    assert run("validate", [*rows, row(made, 9, video="nowhere.mp4")], out="one") == 3
    rows[0]["answer"] = "none of it"
    assert run("validate", rows, out="other") == 0
    capsys.readouterr()
    assert cli.main(["compare", str(tmp_path / "one"), str(tmp_path / "other")]) == 0
    output = capsys.readouterr().out
    assert "nan" not in output and "4 questions in common; difference +0.250, 95 % –" in output
    right = sum(bool(one["correct"]) for one in lines(tmp_path / "one"))
    assert f"({right} of 4)" in output and f"({right - 1} of 4)" in output
    assert "there is one: too few for an interval" in output
    assert [line.split() for line in output.splitlines() if line.startswith("errors")] == [["errors", "0", "0"]]
    assert "1 questions flipped" in output and f"right in one alone: {rows[0]['id']}" in output
    assert "1 of the questions in common were judged by another expected answer" in output


def test_runs_are_compared_by_what_they_ask_now(run, made, tmp_path, capsys):
    """Rows that were edited, parts and options too: a question that is no longer asked counts in no comparison."""
    first, *_ = sorted(made.glob("*.mp4"))
    rows = [
        {"id": str(i), "video": str(first), "question": f"Which shape is red, {i}?", "answer": "a"} for i in range(3)
    ]
    assert run("validate", rows, out="one") == run("validate", rows, out="two") == 0
    edited = [{**rows[0], "end": 1.5}, {**rows[1], "question": "What is blue?"}, rows[2]]
    assert run("validate", edited, out="two") == 0
    about = json.loads((tmp_path / "two" / "results.json").read_text())
    assert set(about["videos"]) == {str(first), f"{first} 0 to 1.5 s"}, "each part has its own entry"
    assert about["fingerprint"]["frames"][0] < about["fingerprint"]["frames"][1]
    capsys.readouterr()
    assert cli.main(["compare", str(tmp_path / "one"), str(tmp_path / "two")]) == 0
    output = capsys.readouterr().out
    assert "2 questions in common" in output
    assert "left out: 1 questions that only one has" in output and "left out: 1 questions that only two has" in output
    assert "1 of the questions in common were asked differently: other options, part or prompt" in output


def test_a_row_without_a_video_has_no_other_videos_evidence(run, made, tmp_path):
    first, *_ = sorted(made.glob("*.mp4"))
    rows = [{"id": "1", "video": str(first), "question": "Q?"}, {"id": "2", "video": "", "question": "Q?"}]
    assert run("predict", rows) == 3
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    by_id = {row["id"]: row for row in lines}
    assert by_id["1"]["sampling"]["frames"] and by_id["1"]["video_hash"]
    assert by_id["2"]["sampling"] is by_id["2"]["video_hash"] is None and by_id["2"]["warnings"] == []
