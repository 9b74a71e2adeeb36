"""Files that public reports of this field are about: what each must give, on the demo model."""

import json
from pathlib import Path

import pytest
import torch

import cli
from datamodules.annotations import read_records
from datamodules.rows import read_rows
from datamodules.rows.questions import read_annotations
from datamodules.video import open_video, read_video
from flexselect.families.inputs import even_frames
from flexselect.structures.frames import ReadOptions

ROOT = Path(__file__).parents[1]
CASES = next(ROOT.parent.glob("*/cases/clip.mp4"), None)
QUESTION = "What colour is the circle?"


@pytest.fixture(scope="module")
def cases():
    if CASES is None:
        pytest.skip("NOT CHECKED on the cases from the field: none here")
    return CASES.parent


def two_a_second(num_frames, fps):
    return even_frames(num_frames, fps, 2.0, 1024)


def as_it_is(frames):
    return frames


def asked(tmp_path, monkeypatch, *more):
    monkeypatch.chdir(ROOT)
    words = ["predict", "--config", "configs/demo/self.yaml", "--output_dir", str(tmp_path / "out"), *more]
    status = cli.main([*words, "--trainer.enable_progress_bar", "false"])
    return status, [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").open(encoding="utf-8")]


WHOLE = [
    "clip.mp4",
    "av1_24fps.mp4",
    "camera_says_25_delivers_2.ts",
    "screen_recording_burst_first.ts",
    "anamorphic_sar_1_2.mp4",
    "anamorphic_control_square.mp4",
    "starts_at_1h.mkv",
    "still_track_first.mp4",
]


@pytest.mark.parametrize("name", WHOLE)
def test_the_circle_is_purple(cases, tmp_path, monkeypatch, name):
    status, (row,) = asked(tmp_path, monkeypatch, "--data.video", str(cases / name), "--data.question", QUESTION)
    assert (status, row["error"], row["answer"]) == (0, None, "purple")
    assert row["sampling"]["frames"] in (64, 66) and row["id"] == Path(name).stem
    assert ("camera" in name) == any("its header says 25" in warning for warning in row["warnings"])


@pytest.mark.parametrize("name", WHOLE)
def test_frames_lie_evenly_from_the_start(cases, name):
    stream = open_video(cases / name, two_a_second, as_it_is)
    seconds, gaps = stream.seconds, stream.seconds.diff()
    assert float(seconds[0]) == 0 and 31 < float(seconds[-1]) < 33 and gaps.min() > 0.4 and gaps.max() < 0.6
    assert stream.about.facts["rule"] == ("variable rate" if "burst" in name else "constant rate")
    late = {"starts_at_1h.mkv": 3600, "camera_says_25_delivers_2.ts": 1}
    assert stream.about.facts.get("starts_at", 0) == pytest.approx(late.get(name, 0), abs=0.5)


def test_pixels_are_square(cases):
    squeezed, control = (
        read_video(cases / f"anamorphic_{kind}.mp4", two_a_second, as_it_is)[0]
        for kind in ("sar_1_2", "control_square")
    )
    assert squeezed.shape == control.shape and float((squeezed.int() - control.int()).abs().float().mean()) < 5
    stored, _ = read_video(cases / "anamorphic_sar_1_2.mp4", two_a_second, as_it_is, ReadOptions(square_pixels=False))
    assert stored.shape[2] == 2 * control.shape[2]


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_av1_is_read_by_any_number_of_threads(cases, monkeypatch, threads):
    monkeypatch.setattr("datamodules.video._threads", lambda: threads)
    every, _ = read_video(cases / "av1_24fps.mp4", lambda n, fps: range(n), as_it_is)
    few, _ = read_video(cases / "av1_24fps.mp4", lambda n, fps: range(5, n, 37), as_it_is)
    assert len(every) == 768 and torch.equal(few, every[5::37])


def test_an_animation_has_its_frames(cases):
    frames, seconds = read_video(cases / "animated.webp", lambda n, fps: range(n), as_it_is)
    assert len(frames) == 8 and seconds.tolist() == [i / 2 for i in range(8)] and not torch.equal(frames[0], frames[-1])


def test_other_line_ends_stay_in_their_rows(cases, tmp_path, monkeypatch):
    words = ["--data.annotations", str(cases / "line_separator.jsonl"), "--data.video_root", str(cases)]
    status, rows = asked(tmp_path, monkeypatch, *words)
    assert status == 0 and [row["id"] for row in rows] == ["1", "2", "3"]
    assert next(row["answer"] for row in rows) == "purple" and "\u2028" in rows[1]["question"]
    status, again = asked(tmp_path, monkeypatch, *words)
    assert status == 0 and again == rows, "nothing is asked once more"
    records = read_records(str(cases / "line_separator_fit.jsonl"))
    assert [record.question for record in records] == [QUESTION, QUESTION.replace("What ", "What\u2028")]


@pytest.mark.parametrize(
    "name", ["system_first.json", "role_content.json", "under_a_key.json", "conversations_as_text.json"]
)
def test_conversations_are_read(cases, name):
    records = read_records(str(cases / name))
    assert {(record.question, record.answer) for record in records} == {(QUESTION, "purple")}
    assert len(records) == (1 if name == "under_a_key.json" else 2)


def test_a_conversation_without_a_text_is_named(cases):
    with pytest.raises(ValueError, match=r"null_value\.json, record 2: turn 1 has None for its text; known are turns"):
        read_records(str(cases / "null_value.json"))


def test_tables_of_other_programs(cases):
    (row,) = read_rows(str(cases / "excel_bom.csv"))
    assert row == {"id": "1", "video": "clip.mp4", "question": QUESTION}
    (row,) = read_rows(str(cases / "cp1252.csv"))
    assert row["question"] == "What colour is the circle \N{EN DASH} exactly?"
    (question,) = read_annotations(str(cases / "comma_without_quotes.csv"))
    assert question.error == (
        "row 1 of the annotations has 4 cells, the first line names 3: put quotes around a text with a separator in it"
    )
