"""Through the front door, with the YAMLs that ship."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from lightning import LightningModule

import cli
from datamodules.needles import write_needle_videos
from flexselect import VideoSession
from flexselect.commands.experiment import run_experiment
from flexselect.evaluation.questions import VideoQuestion
from flexselect.storage.run_settings import UsageError
from lightning_modules.callbacks import PredictionWriter
from lightning_modules.video_qa import VideoQA
from tests import miniature
from tests.datamodules.test_video import BAD, bad_file, write
from tests.fixtures import slow_but
from tests.processes import TWO, Run, run_copy

ROOT = Path(__file__).parents[1]
EXPERIMENTS = sorted((ROOT / "configs" / "experiment").glob("*.yaml"))
OTHERS = {ROOT / "configs" / "demo" / name for name in ("layers.yaml", "serve.yaml")}  # test_locating.py, test_page.py


def each_once(file):
    """Each benchmark and each model, not all pairs."""
    return file.stem.startswith("videomme") or file.stem.endswith("internvl2_5_8b")


CONFIGS = sorted(set((ROOT / "configs").rglob("*.yaml")) - {*EXPERIMENTS, *OTHERS})


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def run(checkpoint, tmp_path):
    """`run("predict", ...)` on the tiny random model; returns the exit status."""

    def run(verb: str, *args: str, config: str = "configs/demo/self.yaml", out: str = "out") -> int:
        always = ["--family.path", str(checkpoint), "--output_dir", str(tmp_path / out), "--data.num_workers", "0"]
        return cli.main([verb, "--config", config, *always, *map(str, args)])

    return run


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_yaml_parses_and_says_how_to_run_it(file, capsys):
    first_line = file.read_text().splitlines()[0]
    assert first_line.startswith(("# python cli.py ", "# torchrun ", "# sbatch "))
    assert f"--config {file.relative_to(ROOT)}" in first_line
    words = first_line.split()
    verb = next(word for word in words if word in ("fit", "validate", "predict", "locate"))
    configs = [word for i, word in enumerate(words) if "--config" in words[max(0, i - 1) : i + 1]]
    asks = verb == "predict" and "--data.annotations" not in words
    data = ["--data.video", "v.mp4", "--data.question", "Q?"] if asks else []
    with pytest.raises(SystemExit) as caught:
        cli.main([verb, *configs, *data, "--print_config"])
    assert caught.value.code in (None, 0)
    assert yaml.safe_load(capsys.readouterr().out)["family"]["class_path"].startswith("flexselect.families.")


@pytest.mark.parametrize("question", ["?", "What is it: a cat?", "null", "- a", "2", "[what?", '"quoted" #1'])
@pytest.mark.parametrize("way", ["--data.question {}", pytest.param("--data.question={}", marks=pytest.mark.slow)])
def test_a_question_is_text_and_not_yaml(question, way, run, videos, tmp_path):
    words = [word.format(question) for word in way.split()]
    assert run("predict", "--data.video", sorted(videos.glob("*.mp4"))[0], *words) == 0
    assert [row["question"] for row in rows(tmp_path / "out")] == [question]


def test_several_questions_on_the_command_line(run, videos, tmp_path):
    video = sorted(videos.glob("*.mp4"))[0]
    assert run("predict", "--data.video", video, "--data.question", '["Who: me?", "Where?"]') == 0
    assert [row["question"] for row in rows(tmp_path / "out")] == ["Who: me?", "Where?"]


@pytest.mark.parametrize("mode", ["dense", "uniform", "random", "self"])
def test_predict(run, videos, tmp_path, mode):
    status = run("predict", "--data.annotations", videos / "annotations.jsonl", config=f"configs/demo/{mode}.yaml")
    assert status == 0
    result = rows(tmp_path / "out")
    assert [row["id"] for row in result] == [f"00{v}-{q}" for v in range(2) for q in range(4)]
    keys = {"id", "video", "question", "answer", "num_visual_tokens", "num_kept_tokens", "timings", "error", "warnings"}
    assert all(keys <= set(row) and row["error"] is None for row in result)
    assert all("answer" in warning for row in result for warning in row["warnings"]), "none about the file"
    assert {row["num_visual_tokens"] for row in result} == {54}
    assert {row["num_kept_tokens"] for row in result} == {54 if mode == "dense" else 9}
    assert all({"decode", "encode", "prefill"} <= set(row["timings"]) for row in result)


def test_every_family_through_its_yaml(model_folder, videos, tmp_path):
    """The four configs a user composes for a checkpoint of their own, of any size."""
    parts = [f"family/{model_folder.name}", "model/self", "data/video_qa", "trainer/cpu"]
    configs = [word for part in parts for word in ("--config", f"configs/{part}.yaml")]
    arguments = ["--family.path", str(model_folder), "--model.dtype", "float32", "--output_dir", str(tmp_path)]
    asked = ["--data.video", str(videos / "needles_000.mp4"), "--data.question", "What colour is the circle?"]
    assert cli.main(["predict", *configs, *arguments, *asked]) == 0
    (row,) = rows(tmp_path)
    assert row["error"] is None and row["num_kept_tokens"] == 9 < row["num_visual_tokens"]


def test_validate_counts_right_answers(run, videos, tmp_path, monkeypatch):
    monkeypatch.setattr(VideoQuestion, "is_right", lambda self, answer: self.id.endswith("-1"))
    assert run("validate", "--data.annotations", videos / "annotations.jsonl") == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (results["accuracy"], results["questions"], results["errors"]) == (0.25, 8, 0)
    assert results["settings"]["selector"] == "self" and results["settings"]["reference_layer"] == 2
    assert [row["correct"] for row in rows(tmp_path / "out")] == [False, True, False, False] * 2


def test_one_question_from_the_command_line(run, videos, capsys, tmp_path):
    question = "Which shape is red?"
    assert run("predict", "--data.video", videos / "needles_000.mp4", "--data.question", question) == 0
    (row,) = rows(tmp_path / "out")
    assert capsys.readouterr().out.splitlines()[-2:] == [question, row["answer"]]


def test_bad_rows_are_recorded_and_the_rest_is_answered(run, videos, tmp_path, checkpoint):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for kind in BAD:
        bad_file(folder, kind)
    for count in (1, 2):
        write(folder / f"short{count}.mp4", count)
    lines = [
        {"id": kind, "video": f"{kind}.mp4", "question": "Which shape is red?"} for kind in (*BAD, "short1", "short2")
    ]
    lines += [{"id": "empty question", "video": "short2.mp4", "question": " "}]
    lines += [{"id": "no question", "video": "short2.mp4"}, {"id": "no video", "question": "Why?"}]
    lines += [{"id": "last", "video": "short1.mp4", "question": "Which shape is blue?"}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run("predict", "--data.annotations", folder / "rows.jsonl") == 3
    result = {row["id"]: row for row in rows(tmp_path / "out")}
    assert len(result) == len(lines)
    for kind, reason in BAD.items():
        assert result[kind]["answer"] is None
        assert reason in result[kind]["error"] and f"{kind}.mp4" in result[kind]["error"]
    assert "the question is empty" in result["empty question"]["error"]
    assert "has no question" in result["no question"]["error"]
    assert "has no video" in result["no video"]["error"]
    assert all(
        result[name]["error"] is None and result[name]["answer"] is not None for name in ("short1", "short2", "last")
    )


def test_a_stopped_run_goes_on_where_it_stopped(run, videos, tmp_path, monkeypatch):
    annotations = videos / "annotations.jsonl"
    assert run("predict", "--data.annotations", annotations, out="whole") == 0
    whole = rows(tmp_path / "whole")
    assert run("predict", "--data.annotations", annotations) == 0
    file = tmp_path / "out" / "predictions.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    failed = json.dumps({**json.loads(lines[4]), "answer": None, "error": "a broken disk"}) + "\n"
    file.write_text("".join(lines[:2]) + failed + lines[3][: len(lines[3]) // 2])  # killed in the middle of a line
    asked = count_questions(monkeypatch)
    assert run("predict", "--data.annotations", annotations) == 0
    assert len(asked) == 6, "two were answered; the failed and the cut one are asked again"
    without_times = [{k: v for k, v in row.items() if k != "timings"} for row in rows(tmp_path / "out")]
    expected = [{k: v for k, v in row.items() if k != "timings"} for row in whole]
    assert sorted(without_times, key=lambda r: r["id"]) == expected
    assert run("validate", "--data.annotations", annotations) == 0
    assert len(asked) == 6, "validate counts answers that are there"
    assert all("correct" in row for row in rows(tmp_path / "out")) and len(rows(tmp_path / "out")) == 8
    assert json.loads((tmp_path / "out" / "results.json").read_text())["questions"] == 8


def count_questions(monkeypatch) -> list[str]:
    asked, ask = [], VideoSession.ask
    monkeypatch.setattr(VideoSession, "ask", lambda self, q, *a, **k: asked.append(q) or ask(self, q, *a, **k))
    return asked


def test_a_killed_process_loses_nothing_that_was_answered(checkpoint, tmp_path):
    write_needle_videos(tmp_path, videos=6, patches=60, needles=2, questions=6, seed=0)
    out = tmp_path / "out"
    command = ["predict", "--config", "configs/demo/self.yaml", "--family.path", checkpoint]
    command += ["--data.annotations", tmp_path / "annotations.jsonl", "--output_dir", out]
    process = Run(command)
    while not (out / "predictions.jsonl").exists() or len((out / "predictions.jsonl").read_text().splitlines()) < 3:
        assert process.poll() is None, process.said()[1]
    process.kill()
    process.wait()
    before = (out / "predictions.jsonl").read_text().splitlines()
    assert Run(command).wait() == 0
    after = (out / "predictions.jsonl").read_text().splitlines()
    assert 3 <= len(before) < 36 and len(after) == len({json.loads(line)["id"] for line in after}) == 36
    assert after[: len(before) - 1] == before[:-1]


def test_other_settings_do_not_mix(run, videos, capsys):
    arguments = ("predict", "--data.annotations", videos / "annotations.jsonl")
    assert run(*arguments) == 0
    assert run(*arguments, "--model.budget", "5") == 2
    assert "budget was 9, is 5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.budget", "0"], "budget must be at least 1 visual token, got 0"),
        (["--model.budget", "-4"], "budget must be at least 1"),
        (["--model.reference_layer", "17"], "reference_layer must be between 0 and 3"),
        (["--model.selector", "best"], "selector must be one of"),
        (["--model.reduction", "median"], "unknown reduction"),
        (["--data.annotations", "nowhere.jsonl"], "nowhere.jsonl: no such annotation file"),
        (["--family.path", "/nowhere"], "error: /nowhere is not a folder with a checkpoint"),
        (["--family.path", "demo/self"], "error: demo/self is the name of a config; here a checkpoint is needed"),
    ],
)
def test_impossible_options_end_with_status_2(run, videos, capsys, arguments, message):
    data = [] if "--data.annotations" in arguments else ["--data.annotations", videos / "annotations.jsonl"]
    assert run("predict", *data, *arguments) == 2
    assert message in capsys.readouterr().err


MISTAKES = [
    (["--model.budgt", "5"], "there is no --model.budgt; did you mean --model.budget?"),
    (["--data.limitt", "5"], "there is no --data.limitt; did you mean --data.limit?"),
    (["--family.max_frame", "5"], "there is no --family.max_frame; did you mean --family.max_frames?"),
    (["--outputdir", "x"], "there is no --outputdir; did you mean --output_dir?"),
    (["--trainer.devics", "1"], "there is no --trainer.devics; did you mean --trainer.devices?"),
    (["--config", "nowhere.yaml"], "nowhere.yaml: no such config"),
    (["--config", "configs/demo/selff.yaml"], "no such config; did you mean configs/demo/self.yaml?"),
    (["--model.keep", "x"], "--model.keep cannot be x: it is one of auto, nothing, features, scores_kv"),
    (["--model.budget", "x"], "--model.budget cannot be x: it is a whole number"),
    (["--model.budget", "[1]"], "--model.budget cannot be [1]: it is of type int"),
    (["--trainer.max_epochs", "x"], "--trainer.max_epochs cannot be x: it is a whole number"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_mistake_gets_one_line(run, videos, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(ROOT)
    assert run("predict", "--data.annotations", videos / "annotations.jsonl", *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_a_path_without_its_family(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = ["--family.path", "checkpoints/demo/video_llm", "--data.video", "a.mp4", "--data.question", "?"]
    assert cli.main(["predict", *words]) == 2
    error = capsys.readouterr().err
    assert "names no family: add --family flexselect.families.Qwen25VL before it" in error and error.count("\n") == 1
    assert cli.main(["predict", "--family", "flexselect.families.Qwen25VL", *words]) != 0
    assert "names no family" not in capsys.readouterr().err


def test_no_config_at_all(capsys):
    assert cli.main(["predict"]) == 2
    assert "a model is missing: give --config CONFIG, for example --config qwen2_5_vl_7b" in capsys.readouterr().err


def test_a_full_disk_is_said_and_nothing_is_lost(run, videos, tmp_path, monkeypatch, capsys):
    write_row, written = PredictionWriter.write, []

    def fill_up(self, row):
        if len(written) == 3:
            self._file = Path("/dev/full")
        written.append(row)
        write_row(self, row)

    monkeypatch.setattr(PredictionWriter, "write", fill_up)
    assert run("predict", "--data.annotations", videos / "annotations.jsonl") == 1
    assert "/dev/full: No space left on device; what was written stays" in capsys.readouterr().err
    assert len(rows(tmp_path / "out")) == 3


def test_more_processes_than_videos_are_refused():
    question = VideoQuestion("1", "v.mp4", "Why?")
    trainer = SimpleNamespace(world_size=2, datamodule=SimpleNamespace(questions=[question]))
    module = object.__new__(VideoQA)
    LightningModule.__init__(module)
    module._trainer = trainer
    with pytest.raises(UsageError, match=r"2 processes cannot share 1 videos: give --trainer\.devices 1"):
        PredictionWriter().setup(trainer, module, "predict")


@pytest.mark.parametrize("verb", ["predict", "validate"])
def test_two_processes_equal_one(run, videos, tmp_path, verb):
    arguments = (verb, "--data.annotations", videos / "annotations.jsonl")
    assert run(*arguments, out="one") == 0
    words = [verb, "--config", "configs/demo/self.yaml", "--data.num_workers", "0"]
    words += ["--family.path", json.loads((tmp_path / "one/settings.json").read_text())["family"]["path"]]
    words += ["--data.annotations", videos / "annotations.jsonl", "--output_dir", tmp_path / "two"]
    Run([*words, *TWO]).ended()
    drop = {"timings"}
    one, two = (
        sorted(({k: v for k, v in r.items() if k not in drop} for r in rows(tmp_path / n)), key=lambda r: r["id"])
        for n in ("one", "two")
    )
    assert one == two and len(one) == 8
    assert not list((tmp_path / "two").glob("part-*"))
    if verb == "validate":
        first, second = (json.loads((tmp_path / n / "results.json").read_text()) for n in ("one", "two"))
        assert first == second


def test_rows_without_a_usable_annotation_do_not_count_in_the_accuracy(run, videos, tmp_path, monkeypatch):
    monkeypatch.setattr(VideoQuestion, "is_right", lambda self, answer: True)
    row = {"id": "1", "video": "needles_000.mp4", "question": "Which shape is red?", "answer": "ring"}
    lines = [row, row, {**row, "id": "2", "answer": None}, {**row, "id": "3", "question": ""}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run("validate", "--data.annotations", tmp_path / "rows.jsonl", "--data.video_root", videos) == 3
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (results["accuracy"], results["questions"], results["errors"]) == (1.0, 4, 3)


def test_two_runs_are_compared(videos, tmp_path, capsys):
    """Of the demo model: training-free against uniform, over the same questions; and against itself."""
    folder = tmp_path / "videos"
    annotations = str(write_needle_videos(folder, videos=4, patches=64, needles=4, questions=8, seed=5))
    for mode in ("self", "uniform"):
        always = ["--data.annotations", annotations, "--output_dir", str(tmp_path / mode), "--data.num_workers", "0"]
        assert cli.main(["validate", "--config", f"configs/demo/{mode}.yaml", "--model.budget", "28", *always]) == 0
    capsys.readouterr()
    assert cli.main(["compare", str(tmp_path / "self"), str(tmp_path / "uniform")]) == 0
    output = capsys.readouterr().out
    assert "32 questions in common; difference +" in output and "self is better." in output
    assert "selector" in output and "differ" in output
    assert "mIoU of moments" not in output, "a control has no moments"
    assert re.search(r"'\w+' \(\d+(\.\d+)?-\d+(\.\d+)? s\) / '", output), "flips name the moment of each answer"
    assert cli.main(["compare", str(tmp_path / "self"), str(tmp_path / "self")]) == 0
    output = capsys.readouterr().out
    results = json.loads((tmp_path / "self" / "results.json").read_text())
    assert re.search(rf"mIoU of moments +{results['grounding']['miou']['mean']:.3f}", output)
    assert re.search(rf"pointing +{results['grounding']['pointing']['mean']:.3f}", output)
    assert "difference +0.000" in output and "p = 1.0000. both have the same questions right." in output
    assert cli.main(["compare", str(tmp_path / "self"), str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("file", slow_but(each_once, EXPERIMENTS), ids=lambda file: file.stem)
def test_every_experiment_is_made_of_configs_that_parse(file, capsys, tmp_path):
    """Every run of every published row, up to the point where a checkpoint is needed."""
    first_line = file.read_text().splitlines()[0]
    assert first_line.startswith(f"# python cli.py experiment --config {file.relative_to(ROOT)} --data.root DIR ")
    seen = []

    def parse(words):
        with pytest.raises(SystemExit) as caught:
            cli.main([*words, "--print_config"])
        assert caught.value.code in (None, 0)
        config = yaml.safe_load(capsys.readouterr().out)
        seen.append((config["model"]["init_args"]["selector"], config["family"]["init_args"]["max_frames"]))
        return cli.ALL_ANSWERED

    plan = yaml.safe_load(file.read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flexselect.commands.experiment.table", lambda folders: "")
        run_experiment(str(file), ["--data.root", "DIR"], str(tmp_path), parse)
    assert [selector for selector, _ in seen][:5] == [None, None, "uniform", "random", "self"]
    assert seen[1][1] < seen[0][1] and len(seen) == 5 + ("lite" in plan["runs"])


def test_an_experiment_with_its_controls(tmp_path, capsys):
    """On a miniature benchmark: a folder a run, one table, nothing done twice."""
    root = miniature.videomme(tmp_path)
    plan = {"configs": ["configs/demo/self.yaml", "configs/data/videomme.yaml"]}
    plan["runs"] = {"dense": {"model.selector": None}, "uniform": {"model.selector": "uniform"}, "self": {}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    words = ["experiment", "--config", str(tmp_path / "plan.yaml"), "--output_dir", str(tmp_path / "out")]
    words += ["--data.root", str(root), "--data.protocol", "plain", "--data.num_workers", "0", "--model.budget", "9"]
    assert cli.main(words) == 0
    output = capsys.readouterr().out
    costs = "frames | decoded | megapixels | scored | kept | TFLOP | tokens shown"
    head = f"| run | accuracy | 95 % interval | {costs} | against dense | p | errors | no letter |"
    assert head in output
    lines = {line.split(" | ")[0].strip("| "): line for line in output.splitlines() if line.startswith("| ")}
    assert re.search(r"\| 144 \| [\d.e-]+ \| 144 \| \| \|", lines["dense"])
    assert "| 9 | " in lines["uniform"] and "| 9 | " in lines["self"]
    answered = {run: (tmp_path / "out" / run / "predictions.jsonl").read_text() for run in plan["runs"]}
    assert cli.main(["validate", *words[1:]]) == 0  # the same
    assert answered == {run: (tmp_path / "out" / run / "predictions.jsonl").read_text() for run in plan["runs"]}
    broken = {**plan, "runs": {"dense": {"model.selector": None}, "broken": {"model.selector": "/nowhere"}, "self": {}}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(broken, sort_keys=False))
    assert cli.main(words) == 2
    output = capsys.readouterr()
    assert "| self |" in output.out and "| broken |" not in output.out and "/nowhere is not a folder" in output.err
    assert cli.main([*words[:2], str(tmp_path / "none.yaml"), *words[3:]]) == 2
    assert "none.yaml: no such config" in capsys.readouterr().err


def test_forked_runs_import_nothing_large(tmp_path):
    """Else each of some fifty runs in the tests would take five seconds more."""
    code = "import sys; print(*(n in sys.modules for n in ('torchmetrics', 'lightning.pytorch.cli', 'jsonargparse')))"
    status, said = run_copy(code, tmp_path)
    assert status == 0 and said.split() == ["True"] * 3


def test_a_wrong_value_and_an_option_of_other_verbs_are_named(capsys):
    words = ["--config", "configs/demo/self.yaml", "--data.video", "x.mp4", "--data.question", "What?"]
    assert cli.main(["predict", *words, "--model.cost="]) == 2
    assert "error: --model.cost cannot be '': it is of type float" in capsys.readouterr().err
    assert cli.main(["locate", "--config", "configs/demo/locate.yaml", "--model.cost", "0.2"]) == 2
    assert capsys.readouterr().err.strip().endswith("there is no --model.cost"), "it is near to itself, but no advice"
