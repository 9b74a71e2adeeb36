"""The verbs `ask` and `demo`, and what goes to which stream."""

import json
import logging
import re
from types import SimpleNamespace

import pytest

import cli
from datamodules.needles import write_needle_videos
from flexselect.commands.ask import predict_words
from flexselect.engine.pace import Pace, duration
from flexselect.evaluation.results import shown_answer
from flexselect.shipped import config_file, config_names
from lightning_modules.progress import ProgressLines
from tests.processes import ROOT, Run

QUESTION = "What colour is the circle?"


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    folder = tmp_path_factory.mktemp("video")
    write_needle_videos(folder, videos=1, patches=16, seed=2026)
    return folder / "needles_000.mp4"


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """Where no config and no checkpoint lies."""
    monkeypatch.chdir(tmp_path)


def test_the_answer_is_all_on_standard_output(video, tmp_path, capfd):
    assert cli.main(["ask", str(video), QUESTION, "--model", "demo/self"]) == 0
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 1 and out.strip() and "predictions.jsonl" not in err
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_several_questions_and_a_folder(video, tmp_path, capfd, caplog):
    words = ["ask", str(video), QUESTION, "Is it: round?", "--model=demo/lite", "--output_dir", str(tmp_path / "out")]
    assert cli.main(words) == 0
    out = capfd.readouterr().out
    assert out.splitlines()[::2] == [QUESTION, "Is it: round?"] and len(out.splitlines()) == 4
    assert len((tmp_path / "out" / "predictions.jsonl").read_text().splitlines()) == 2
    assert "predictions.jsonl" in caplog.text


def test_quiet_says_nothing_else(video, tmp_path, capfd, caplog):
    """Of predict too, which else names the file of its answers."""
    words = ["--config", "demo/self", "--data.video", str(video), "--data.question", QUESTION]
    assert cli.main(["predict", *words, "--output_dir", str(tmp_path / "one")]) == 0
    loud = capfd.readouterr()
    assert "predictions.jsonl" in caplog.text
    caplog.clear()
    assert cli.main(["predict", "--quiet", *words, "--output_dir", str(tmp_path / "two")]) == 0
    quiet = capfd.readouterr()
    assert quiet.err == caplog.text == "" and quiet.out == loud.out


def test_verbose_says_where():
    """Where an error came from."""
    words = ["export", "--ckpt_path", str(ROOT / "README.md"), "--output", "x"]
    assert "Traceback" not in Run(words).ended(1) and "Traceback" in Run([*words, "--verbose"]).ended(1)


def test_selectors_and_models(video, checkpoint):
    assert predict_words([str(video), "a?", "--selector", "dense"])[-2:] == ["--model.selector", "null"]
    assert predict_words([str(video), "a?"])[:2] == ["--config", config_file("qwen2_5_vl_7b")]
    words = predict_words([str(video), "a?", "b?", "--model", str(checkpoint), "--family.fps", "1"])
    assert words[words.index("--family.path") + 1] == str(checkpoint) and words[-2:] == ["--family.fps", "1"]
    assert words[words.index("--data.question") + 1 :][:2] == ["a?", "b?"]


def test_a_folder_is_asked_with_its_family(video, checkpoint, capfd):
    words = ["--max_frames", "4", "--max_new_tokens", "2", "--dtype", "float32"]
    assert cli.main(["ask", str(video), QUESTION, "--model", str(checkpoint), *words]) == 0
    assert capfd.readouterr().out.strip()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "a video and a question is missing"),
        (["VIDEO"], "a question is missing"),
        (["VIDEO", " "], "a question is empty"),
        (["", "a?"], "the video is empty"),
        ([".", "a?"], "is a folder: ask is about one video"),
        (["a?", "VIDEO"], "no such video; the video comes first"),
        (["VIDEO", "a?", "--model", "demo/slef"], "did you mean demo/self?"),
        (["nowhere.mp4", "a?"], "nowhere.mp4: no such video"),
        (["VIDEO", "a?", "--modle", "x"], "ask has no option --modle; did you mean --model?"),
        (["VIDEO", "a?", "--first_look_share", "0.3"], "no option --first_look_share; give --model.first_look_share"),
        (["VIDEO", "a?", "--tolerance=1"], "ask has no option --tolerance; give --family.tolerance"),
        (["VIDEO", "a?", "--budget"], "--budget has no value"),
        (["VIDEO", "a?", "--model", "qwen2_5_vl_7"], "did you mean qwen2_5_vl_7b?"),
        (["VIDEO", "a?", "--model", "family/qwen3_5"], "--model family/qwen3_5 is only a part of a config"),
        (["VIDEO", "a?", "--model", "VIDEO"], "is no config"),
    ],
)
def test_mistakes(words, message, video, capfd):
    assert cli.main(["ask", *(str(video) if word == "VIDEO" else word for word in words)]) == 2
    out, err = capfd.readouterr()
    assert message in err and len(err.splitlines()) == 1 and out == ""


def test_a_mistyped_option_of_predict(video, capfd):
    assert cli.main(["ask", str(video), QUESTION, "--model", "demo/self", "--model.budgt", "3"]) == 2
    assert "did you mean --model.budget?" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["demo/self", "demo/self.yaml", "configs/demo/self.yaml"])
def test_configs_by_name(name):
    assert config_file(name) == str(ROOT / "configs" / "demo" / "self.yaml")
    assert {"demo/self", "qwen2_5_vl_7b", "experiment/mlvu_qwen2_5_vl_7b"} <= set(config_names())
    assert config_file("nowhere") == "nowhere"


def test_the_demo(tmp_path, capfd):
    assert cli.main(["demo", "--output_dir", str(tmp_path / "try")]) == 0
    out = capfd.readouterr().out.splitlines()
    right = {line.split()[0]: int(line.split()[4]) for line in out if " of 8" in line}
    assert right["self"] == right["lite"] == 8 > right["dense"]
    assert f'ask {tmp_path / "try" / "needles_000.mp4"} "{QUESTION}" --model demo/self' in "\n".join(out)


def test_a_training_in_a_log_file_says_step_loss_and_time_left(caplog, monkeypatch):
    """Every half minute; the clock is set by hand."""
    caplog.set_level(logging.INFO)
    now = [0.0]
    monkeypatch.setattr("lightning_modules.progress.Pace", lambda total: Pace(total, now=lambda: now[0]))
    lines = ProgressLines()
    trainer = SimpleNamespace(estimated_stepping_batches=400, global_step=0)
    lines.on_train_start(trainer, None)
    for step in range(1, 101):
        now[0], trainer.global_step = 1.0 * step, step
        lines.on_train_batch_end(trainer, None, {"loss": 1 / step}, None, step)
    said = [record.message for record in caplog.records]
    assert said[0] == "training: 0 of 400 steps" and len(said) == 4
    assert said[1] == "training: 30 of 400 steps, 06:10 left, loss 0.03333"
    lines.disable()
    lines.on_train_start(trainer, None)
    assert len(caplog.records) == 4, "all processes but the first say nothing"


def test_durations():
    assert [duration(seconds) for seconds in (4, 245, 3723)] == ["00:04", "04:05", "1:02:03"]
    pace = Pace(10, now=lambda: 5.0)
    assert pace.line(0, "steps") == "0 of 10 steps" and not pace.due() and Pace(None).line(7, "steps") == "7 steps"


def test_an_empty_answer_is_said():
    assert [shown_answer({"answer": text, "error": None}) for text in ("", " ", "a")] == ["(empty)", "(empty)", "a"]
    assert shown_answer({"answer": None, "error": "no frames"}) == "no frames"


def test_control_characters_of_an_answer_do_not_reach_the_terminal():
    row = {"answer": "\x1b]0;title\x07\tred\r\ngrün \u200d\x9b", "error": None}
    assert shown_answer(row) == "\\x1b]0;title\\x07\tred\\r\ngrün \u200d\\x9b"


def test_a_run_in_a_log_file(video, tmp_path):
    """No carriage return, no bar, no note of a library."""
    run = Run(
        [
            "validate",
            "--config",
            "demo/self",
            "--data.annotations",
            video.parent / "annotations.jsonl",
            "--output_dir",
            tmp_path,
        ]
    )
    err = run.ended()
    out = run.said()[0]
    assert "\r" not in err and "GPU available" not in err and "Tip" not in err
    assert out.startswith("all questions  accuracy ") and "right" in out and "errors count as wrong" in out


def test_where_an_answer_comes_from(video, tmp_path, capfd, caplog):
    """A note on standard error; proven, and exported for video players."""
    words = ["ask", str(video), QUESTION, "--model", "demo/self", "--budget", "12"]
    assert cli.main(words) == 0 and "what stands out: 0:" in caplog.text
    caplog.clear()
    assert cli.main([*words, "--verify", "true", "--output_dir", str(tmp_path), "--moments", "vtt"]) == 0
    assert "; without it another answer (support " in caplog.text
    (row,) = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert row["verification"]["changed"] is True and row["moments"][0]["alone"] == 1.0 and row["presence"] > 5
    (file,) = (tmp_path / "moments").iterdir()
    assert file.read_text().count("-->") == row["verification"]["cited"] and QUESTION in file.read_text()
    assert len(capfd.readouterr().out.splitlines()) == 2, "the answers alone"


def test_what_is_doubtful_is_said(video, caplog):
    words = ["ask", str(video), QUESTION, "--model", "demo/self", "--model.absent_below", "99"]
    assert cli.main(words) == 0 and "doubtful: probably not in this video: presence" in caplog.text
    caplog.clear()
    assert cli.main([*words[:5], "--selector", "dense"]) == 0 and "stands out" not in caplog.text
    assert cli.main([*words[:5], "--selector", "uniform", "--verify", "true"]) == 2
    assert cli.main([*words[:5], "--selector", "dense", "--absent_below", "3"]) == 2


def test_several_questions_each_say_where(video, caplog, capfd, tmp_path):
    words = ["ask", str(video), QUESTION, "What colour is the ring?", "--model", "demo/self", "--budget", "12"]
    assert cli.main([*words, "--start", "0:00", "--end", "2:40"]) == 0
    assert caplog.text.count("stands out") == 2 and len(capfd.readouterr().out.splitlines()) == 4
    for option in (["--moments", "vtt"], ["--report"]):
        assert cli.main([*words, *option]) == 2
        assert f"{option[0]} writes a file, and ask keeps none: give --output_dir DIR" in capfd.readouterr().err
    for flag, written in (([*words[:6], "--report"], True), ([*words[:6], "--report=false"], False)):
        out = tmp_path / str(written)
        assert cli.main([*flag, "--output_dir", str(out)]) == 0 and (out / "report.html").is_file() == written
    capfd.readouterr()
    assert cli.main([*words, "--report=maybe", "--output_dir", "x"]) == 2
    assert "--report must be true or false, got maybe" in capfd.readouterr().err
    assert cli.main([*words[:4], "--verify", "--model", "demo/self"]) == 2
    assert "--verify has no value" in capfd.readouterr().err
    assert cli.main([*words, "--moments", "srt", "--output_dir", "x"]) == 2
    assert "--moments cannot be srt: it is one of vtt, chapters" in capfd.readouterr().err


def test_grounding_needs_no_answers(video, tmp_path, capfd):
    """As in the common sets of temporal grounding: a question, and when."""
    (row,) = [json.loads(line) for line in (video.parent / "annotations.jsonl").read_text().splitlines()[:1]]
    row = {"id": "1", "video": video.name, "question": row["question"], "timestamps": row["moments"]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    words = ["validate", "--config", "demo/self", "--data.annotations", str(tmp_path / "a.jsonl")]
    words += ["--data.video_root", str(video.parent), "--output_dir", str(tmp_path / "out")]
    assert cli.main([*words, "--report"]) == 0
    (answered,) = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert answered["error"] is None and answered["grounding"]["annotated"] == row["timestamps"]
    assert "moments of 1 questions: mIoU" in capfd.readouterr().out
    for file in ("report.html", "results.md"):
        assert "moments of 1 questions: mIoU" in (tmp_path / "out" / file).read_text()
    assert re.search(r"annotated: \d:\d\d–\d:\d\d", (tmp_path / "out" / "report.html").read_text())


def test_validate_counts_moments_and_absence(video, tmp_path, capfd):
    rows = [json.loads(line) for line in (video.parent / "annotations.jsonl").read_text().splitlines()[:3]]
    there = {"absent": False}
    absent = {"id": "x", "video": video.name, "question": "What colour is the moon?", "absent": True}
    text = "".join(json.dumps(row) + "\n" for row in [*({**row, **there} for row in rows), absent])
    (tmp_path / "a.jsonl").write_text(text)
    words = ["--config", "demo/self", "--data.annotations", str(tmp_path / "a.jsonl")]
    words += ["--data.video_root", str(video.parent), "--output_dir", str(tmp_path / "out")]
    assert cli.main(["validate", *words]) == 0
    out = capfd.readouterr().out
    assert (
        "moments of 3 questions: mIoU " in out and "by chance mIoU" in out and "not in the video: 1 absent of 4" in out
    )
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["counted"] == 3 and results["errors"] == 0 and results["absence"]["absent"] == 1
    assert results["grounding"]["questions"] == 3 and results["grounding"]["chance_pointing"] == pytest.approx(
        1.5 / 16, abs=1e-3
    )
