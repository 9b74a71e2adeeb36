"""lmms-eval asks the model: the same answers as natively. In an environment of its own: `make test-lmms`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import load_dataset

import cli
from flexselect import FlexSelect
from flexselect.page.modes import Modes
from tests import miniature
from tests.serving.servers import served
from tests.test_architecture import ROOT

pytest.importorskip("lmms_eval", reason="NOT CHECKED through lmms-eval: it is not installed; see `make test-lmms`")

import lmms_eval.tasks

from flexselect_lmms.arguments import identity

DEMO = "checkpoints/demo/video_llm"
SELF = f"pretrained={DEMO},selector=self,dtype=float32"
STOCK = Path(lmms_eval.tasks.__file__).parent
TASKS = ROOT / "flexselect_lmms" / "tasks"
FOLDERS = {"VideoMME": "videomme", "MLVU": "mlvu", "LVBench": "lvbench", "LongVideoBench": "datasets/longvideobench"}
NAMES = {"VideoMME": "videomme", "MLVU": "mlvu_dev", "LVBench": "lvbench", "LongVideoBench": "longvideobench_val_v"}
SPLITS = {"LVBench": "train", "LongVideoBench": "validation"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """$HF_HOME with the four miniatures where lmms-eval looks, and tasks that read their tables from there."""
    home = tmp_path_factory.mktemp("home")
    (home / "tasks").mkdir()
    for name, folder in FOLDERS.items():
        root = miniature.BUILDERS[name](home / folder)
        kind, table = ("json", "test.jsonl") if name == "LVBench" else ("parquet", "**/*.parquet")
        rows = load_dataset(kind, data_files=str(root / table), split="train")
        if name == "LVBench":  # the hub's own column, beside those of the released table
            endings = {f"key{i}": f"data/key{i}{ending}" for i, ending in enumerate(miniature.ENDINGS)}
            rows = rows.add_column("video_path", [endings[row["key"]] for row in rows])
        rows.to_parquet(str(home / "tasks" / f"{name}.parquet"))
        stock = next(STOCK.rglob(f"{NAMES[name]}.yaml"))
        original = [TASKS / f"{NAMES[name]}_flexselect.yaml"]
        original += TASKS.glob("longvideobench_val_v_sub_*.yaml") if name == "LongVideoBench" else ()
        for base, ending in ((stock, "_local"), *((file, "_local") for file in original)):
            lines = f"include: {base}\ntask: {base.stem}{ending}\ndataset_path: parquet\n"
            files = f"{SPLITS.get(name, 'test')}: {home / 'tasks' / f'{name}.parquet'}"
            (home / "tasks" / f"{base.stem}{ending}.yaml").write_text(
                f"{lines}dataset_kwargs: {{data_files: {{{files}}}}}\n"
            )
    return home


def harness(
    home,
    out,
    tasks,
    arguments=f"pretrained={DEMO},selector=self,dtype=float32",
    *more,
    launch=("-m",),
    model="flexselect",
):
    """Run lmms-eval; results by task, and answers by task and document."""
    command = [sys.executable, *launch, "lmms_eval", "eval", "--model", model, "--model_args", arguments]
    command += ["--include_path", home / "tasks", "--tasks", ",".join(tasks), "--batch_size", "1", "--device", "cpu"]
    command += ["--output_path", out, "--log_samples", *more]
    offline = dict.fromkeys(
        ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "ACCELERATE_USE_CPU"), "1"
    )
    variables = {**os.environ, **offline, "HF_HOME": str(home), "LMMS_EVAL_DATASETS_CACHE": str(home / "arrow")}
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=variables, capture_output=True, text=True, timeout=500)
    result = sorted(out.rglob("*_results.json"))
    assert result, done.stdout[-3000:] + done.stderr[-3000:]  # a run that failed exits with 0
    results = json.loads(result[-1].read_text())["results"]
    rows = {}
    for task in tasks:
        (file,) = out.rglob(f"*_samples_{task}.jsonl")
        rows[task] = [json.loads(line) for line in file.read_text().splitlines()]
    return results, rows, done.stdout + done.stderr


def native(home, out, name, protocol, *more):
    """The same through `validate`: answers in the order of the table."""
    arguments = ["validate", "--config", "configs/demo/self.yaml", "--output_dir", str(out)]
    arguments += ["--data", f"datamodules.benchmarks.{name.lower()}.{name}", "--data.root", str(home / FOLDERS[name])]
    arguments += ["--data.protocol", protocol, "--data.num_workers", "0", "--trainer.enable_progress_bar", "false"]
    assert cli.main([*arguments, *more]) == 0
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    return json.loads((out / "results.json").read_text()), rows


@pytest.fixture(scope="module")
def asked(home, tmp_path_factory):
    """All tasks in one run, over videos that are decoded once for all of them."""
    return harness(home, tmp_path_factory.mktemp("out"), [file.stem for file in (home / "tasks").glob("*.yaml")])


@pytest.mark.parametrize("name", NAMES)
def test_stock_tasks_answer_as_the_lmms_protocol(home, asked, tmp_path, monkeypatch, name):
    """Question by question: the prompt, the answer in words, and what it counts as."""
    monkeypatch.chdir(ROOT)
    _, rows, _ = asked
    results, mine = native(home, tmp_path, name, "lmms")
    expected = rows[f"{NAMES[name]}_local"]
    assert [row["filtered_resps"] for row in expected] == [row["answer"] for row in mine]
    assert len({row["answer"] for row in mine}) > 2  # canary: a model that always says the same would show nothing
    for row, original in zip(expected, mine):
        assert original["question"] in row["input"]
        result = next(row[metric] for metric in row if metric.endswith(("_score", "_acc")))
        if name == "LVBench":
            assert result == original["correct"]
        else:
            read = result.get("pred_answer", result.get("parsed_pred"))
            assert (
                read == original["parsed"] or original["parsed"] is None
            )  # LongVideoBench draws a letter where none is read
    assert results["questions"] == 12


@pytest.mark.parametrize("as_file", [True, False], ids=["the file's address", "frames"])
def test_its_openai_backend_evaluates_through_the_endpoint(home, tmp_path, monkeypatch, as_file):
    """With the file's address the answers are the native ones; as ten frames, the videos are other ones."""
    if not as_file:
        pytest.importorskip("qwen_vl_utils", reason="NOT CHECKED with frames: lmms-eval cuts them with qwen-vl-utils")
    monkeypatch.chdir(ROOT)
    modes = Modes(FlexSelect.from_pretrained(DEMO, selector="self", dtype="float32", device="cpu"))
    with served(modes, media_root=home) as server:
        arguments = f"model_version=video_llm,base_url={server.url}v1,api_key=none,timeout=60,pass_video_url={as_file}"
        _, rows, _ = harness(home, tmp_path, ["mlvu_dev_local"], arguments, model="openai")
        requests = server.endpoint.counters.registry.get_sample_value("flexselect_requests_total", {"status": "200"})
    _, mine = native(home, tmp_path / "mine", "MLVU", "lmms")
    answers, expected = [row["filtered_resps"] for row in rows["mlvu_dev_local"]], [row["answer"] for row in mine]
    assert requests == len(answers) == 12 and all(answers)
    assert (answers == expected) or not as_file
    assert server.encodings == 3 or not as_file


def test_moments_of_every_answer(home, tmp_path, monkeypatch):
    """In a file beside lmms-eval's own, by task and document: the same moments as natively."""
    monkeypatch.chdir(ROOT)
    known = f"pretrained={DEMO},selector=self,dtype=float32,answers={tmp_path / 'answers.jsonl'}"
    _, rows, _ = harness(home, tmp_path, ["lvbench_local"], known)
    _, mine = native(home, tmp_path / "mine", "LVBench", "lmms")
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    written = {line["doc_id"]: line for line in lines}
    assert {line["task"] for line in lines} == {"lvbench_local"} and len(written) == len(lines) == 12
    for row, original in zip(rows["lvbench_local"], mine):
        line = written[row["doc_id"]]
        assert line["answer"] == row["filtered_resps"] == original["answer"]
        assert line["moments"] == original["moments"] and Path(line["video"]).is_file()
    assert any(line["moments"] for line in lines), "canary"


def test_stock_scores(home, asked, tmp_path, monkeypatch):
    """In their own units; MLVU's mean has seven types there, two of which are in the miniature."""
    monkeypatch.chdir(ROOT)
    scores, _, _ = asked
    mine = {name: native(home, tmp_path / name, name, "lmms")[0]["accuracy"] for name in NAMES}
    assert scores["videomme_local"]["videomme_perception_score,none"] == pytest.approx(100 * mine["VideoMME"])
    assert scores["lvbench_local"]["lvbench_score,none"] == pytest.approx(mine["LVBench"])
    assert scores["mlvu_dev_local"]["mlvu_percetion_score,none"] == pytest.approx(100 * mine["MLVU"] * 2 / 7)
    assert scores["longvideobench_val_v_local"]["lvb_acc,none"] == pytest.approx(mine["LongVideoBench"])


@pytest.mark.parametrize("name", [*NAMES, "subtitles"])
def test_own_tasks_answer_as_the_paper_protocol(home, asked, tmp_path, monkeypatch, name):
    monkeypatch.chdir(ROOT)
    scores, rows, _ = asked
    task = f"{NAMES.get(name, 'longvideobench_val_v_sub')}_flexselect_local"
    more = ["--data.with_subtitles", "true"] if name == "subtitles" else []
    results, mine = native(home, tmp_path, "LongVideoBench" if name == "subtitles" else name, "paper", *more)
    assert [row["filtered_resps"] for row in rows[task]] == [row["answer"] for row in mine]
    assert [row["accuracy"]["right"] for row in rows[task]] == [row["correct"] for row in mine]
    assert scores[task]["accuracy,none"] == pytest.approx(results["accuracy"])
    assert scores[task]["unparsed,none"] == pytest.approx(results["unparsed"] / 12)


def test_released_names_two_processes_and_the_response_cache(home, asked, tmp_path):
    """torchrun with two processes and the released scripts' words; then again, answered by the cache alone."""
    known = f"pretrained={DEMO},use_token_selector=True,token_selector_path=self,drop_func_name=token_selection"
    known += f",tkn_budget=112,token_selector_layer=1,dtype=float32,weights={identity(DEMO, 'self')}"
    cache = ["--use_cache", tmp_path / "cache"]
    two = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29617", "-m")
    _, cold, output = harness(home, tmp_path / "cold", ["lvbench_local"], known, *cache, launch=two)
    assert "FlexSelect: 100%" in output
    _, warm, output = harness(home, tmp_path / "warm", ["lvbench_local"], known, *cache)
    assert "FlexSelect: 100%" not in output
    by_id = lambda rows: {row["doc_id"]: row["filtered_resps"] for row in rows["lvbench_local"]}  # noqa: E731
    assert by_id(cold) == by_id(warm) == by_id(asked[1]) and len(by_id(cold)) == 12


def test_weights_that_are_not_those_that_were_named(home, tmp_path):
    with pytest.raises(AssertionError, match=r"model_args say weights=abc, but the weights are sha-[0-9a-f]{16}"):
        harness(home, tmp_path, ["lvbench_local"], f"pretrained={DEMO},selector=self,weights=abc")


def test_a_broken_video_is_answered_with_nothing(home, tmp_path):
    video = home / "videomme" / "data" / "v0.mp4"
    contents = video.read_bytes()
    video.write_bytes(b"no video")
    try:
        _, rows, output = harness(home, tmp_path, ["videomme_flexselect_local"])
    finally:
        video.write_bytes(contents)
    assert "v0.mp4: is not a video" in output and "its questions are answered with nothing" in output
    answers = [row["filtered_resps"] for row in rows["videomme_flexselect_local"]]
    assert answers[:4] == [""] * 4 and all(answers[4:])
    assert [row["unparsed"] for row in rows["videomme_flexselect_local"]][:4] == [1.0] * 4
