"""What lmms-eval's words mean, and its tasks beside the native ones; without lmms-eval itself."""

import logging
import runpy
import sys

import pytest
import yaml

from datamodules.benchmarks.longvideobench import LongVideoBench
from datamodules.benchmarks.lvbench import LVBench
from datamodules.benchmarks.mlvu import MLVU
from datamodules.benchmarks.videomme import VideoMME
from datamodules.rows import read_rows
from flexselect.families import family_of
from flexselect_lmms.arguments import answers_file, check_identity, check_names, identity, options
from flexselect_lmms.tasks import questions
from tests import miniature, tiny
from tests.test_architecture import ROOT

DEMO = str(ROOT / "checkpoints" / "demo" / "video_llm")
SELECTOR = str(ROOT / "checkpoints" / "demo" / "selector")
KINDS = {"videomme": VideoMME, "mlvu": MLVU, "lvbench": LVBench, "longvideobench": LongVideoBench}


def test_the_file_for_answers(tmp_path):
    assert answers_file(str(tmp_path / "new" / "answers.jsonl"), 0) == tmp_path / "new" / "answers.jsonl"
    assert answers_file(str(tmp_path / "new" / "answers.jsonl"), 2) == tmp_path / "new" / "answers-2.jsonl"
    assert (tmp_path / "new").is_dir()
    with pytest.raises(ValueError, match=r"answers=.*, which is a folder: name a file in it"):
        answers_file(str(tmp_path), 0)


def test_own_and_released_names(caplog):
    original = {
        "selector": "self",
        "budget": 7040,
        "reference_layer": 20,
        "reduction": "token_selection",
        "max_frames": 512,
    }
    released = {"use_token_selector": True, "token_selector_path": "self", "tkn_budget": 7040}
    released |= {"token_selector_layer": 20, "drop_func_name": "token_selection", "max_frames_num": 512}
    assert options(original) == options(released) == original
    assert options({"use_token_selector": False, "token_selector_path": "self"}) == {"selector": None}
    assert options({"selector": "None", "fps": 1.0}) == {"selector": None, "fps": 1.0}
    assert options({"use_flash_attention_2": True}) == {"attn_implementation": "flash_attention_2"}
    with caplog.at_level(logging.WARNING):
        assert options({"conv_template": "qwen_1_5"}) == {}
    assert "conv_template=qwen_1_5 has no effect" in caplog.text
    with pytest.raises(ValueError, match="budget is given twice in model_args, once as tkn_budget"):
        options({"budget": 1, "tkn_budget": 2})


def test_an_option_that_nothing_takes_is_named():
    check_names(DEMO, {"selector": "self", "max_pixels": 100, "dtype": "float32"})
    with pytest.raises(
        ValueError, match=r"model_args has no option selectr; did you mean selector\? There are .*budget, .*fps, "
    ):
        check_names(DEMO, {"selectr": "self"})


def test_identity_tells_weights_apart(caplog):
    assert identity(DEMO, "self") == identity(DEMO, None) != identity(DEMO, SELECTOR)
    check_identity(identity(DEMO, SELECTOR), DEMO, SELECTOR)
    with pytest.raises(ValueError, match="model_args say weights=abc, but the weights are"):
        check_identity("abc", DEMO, "self")
    check_identity(None, DEMO, "self")
    assert f"add weights={identity(DEMO, 'self')} to --model_args" in caplog.text


def test_the_command_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["flexselect_lmms", DEMO, SELECTOR])
    runpy.run_module("flexselect_lmms", run_name="__main__")
    output = capsys.readouterr().out
    assert f"pretrained={DEMO},selector={SELECTOR},weights={identity(DEMO, SELECTOR)}" in output
    assert (
        "--tasks videomme_flexselect,mlvu_dev_flexselect,lvbench_flexselect,longvideobench_val_v_flexselect " in output
    )
    assert "--include_path" in output


@pytest.fixture
def home(tmp_path, monkeypatch):
    """$HF_HOME with the miniatures where lmms-eval puts them."""
    for name, build in miniature.BUILDERS.items():
        if name.lower() in KINDS:  # lmms-eval has tasks for these
            build(tmp_path / questions.FOLDERS[KINDS[name.lower()].form])
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    questions._format.cache_clear()
    yield tmp_path
    questions._format.cache_clear()


@pytest.mark.parametrize("name", KINDS)
def test_own_tasks_put_questions_as_the_paper_protocol(home, tmp_path, name):
    root = home / questions.FOLDERS[KINDS[name].form]
    text, video, result = (getattr(questions, f"{name}_{part}") for part in ("text", "video", "result"))
    for family, chosen in (
        (family_of(DEMO), None),
        (family_of(str(tiny.llava_video(tmp_path))), {"llava_video": True}),
    ):
        data = KINDS[name](family, str(root))
        by_prompt = {question.text: question for question in data.questions}
        docs = read_rows(str(data.format.table()))
        assert len(docs) == 12 and all(text(doc, chosen) in by_prompt for doc in docs)
    results = [result(doc, ["B"])["accuracy"]["right"] for doc in docs]
    assert results == [data.format.to_question(doc).answer == "B" for doc in docs] and any(results) and not all(results)
    assert result(docs[0], ["?"]) == {**result(docs[0], ["?"]), "unparsed": 1.0}
    assert video(docs[0]) == [str(root / data.format.to_question(docs[0]).video)]


def test_every_task_names_functions_that_are_there():
    files = sorted((ROOT / "flexselect_lmms" / "tasks").glob("*.yaml"))
    assert len(files) == 7
    yaml.SafeLoader.add_constructor("!function", lambda loader, node: node.value)
    for file in files:
        task = yaml.safe_load(file.read_text())
        named = [value for value in task.values() if str(value).startswith("questions.")]
        named += [metric["aggregation"] for metric in task.get("metric_list", ())]
        assert all(hasattr(questions, name.partition(".")[2]) or name == "mean" for name in named)
        assert "include" in task or len(named) == 5
    released = yaml.safe_load((ROOT / "flexselect_lmms" / "tasks" / "mlvu_dev_flexselect.yaml").read_text())
    assert released["generation_kwargs"]["max_new_tokens"] == MLVU.form.protocols["paper"].max_new_tokens


def test_the_mean_of_groups():
    rows = [{"right": True, "group": "ego"}, {"right": False, "group": "needle"}, {"right": False, "group": "needle"}]
    assert questions.mean_of_groups(rows) == 0.5
    assert questions.mean_of_groups([{**row, "group": ""} for row in rows]) == pytest.approx(1 / 3)
