"""Answering elsewhere: the same answers from the prompts alone. vLLM itself: tests/flexselect_vllm."""

import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

import cli
from datamodules.needles import write_needle_videos
from flexselect import FlexSelect
from flexselect.engine import answer_engines
from flexselect.engine.answer_engines import Generated
from flexselect.families import family_of, load_lm
from flexselect.options import Options
from flexselect.page.modes import Modes
from flexselect.validation import EngineLostError
from tests import tiny
from tests.serving.servers import NAME, get, messages, post, served
from tests.test_architecture import ROOT

DEMO, SELECTOR = "checkpoints/demo/video_llm", "checkpoints/demo/selector"
OPTIONS = {"dtype": "float32", "device": "cpu"}


class Elsewhere:
    """Answers with a whole model of its own, in a thread, from nothing but prompts."""

    def __init__(self, family, url, options, dtype):
        self.lm = load_lm(family_of(family.path), Options(dtype=dtype, device="cpu"))
        self.thread, self.prompts, self.most = ThreadPoolExecutor(1), [], 0
        self.arguments = url, options
        self.waiting = 0

    def submit(self, prompt, on_token):
        self.prompts.append(prompt)
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        return self.thread.submit(self.answer, prompt, on_token)

    def answer(self, prompt, on_token):
        positions = prompt.positions.T[:, None]
        inputs = {"input_ids": prompt.ids[None], "inputs_embeds": prompt.embeddings[None], "deepstack": {}}
        inputs |= {"position_ids": positions, "attention_mask": torch.ones_like(prompt.ids)[None]}
        with torch.inference_mode():
            (new,) = self.lm.generate(inputs, prompt.max_new_tokens, lambda token: on_token(int(token[0])))
        self.waiting -= 1
        return Generated(new, 0.25, 0.5)

    def close(self):
        self.thread.shutdown()


@pytest.fixture
def engines(monkeypatch):
    """All that were opened."""
    opened = []

    def open_engine(*arguments):
        opened.append(Elsewhere(*arguments))
        return opened[-1]

    module = SimpleNamespace(open_engine=open_engine, check_engine=lambda family, url, options: None)
    engine = SimpleNamespace(name="elsewhere", load=lambda: module)
    monkeypatch.setattr(answer_engines, "entry_points", lambda group: [engine])
    return opened


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_needle_videos(tmp_path_factory.mktemp("videos"), videos=2, patches=12, questions=3, seed=3)


@pytest.mark.parametrize(("selector", "layers"), [(None, 1), ("uniform", 1), ("self", 2), (SELECTOR, 1)])
def test_the_same_answers_in_every_mode(engines, table, selector, layers):
    video, question = table.parent / "needles_000.mp4", "What colour is the circle?"
    expected = FlexSelect.from_pretrained(DEMO, selector=selector, **OPTIONS).open(video).ask(question, 4)
    fs = FlexSelect.from_pretrained(DEMO, selector=selector, **OPTIONS, engine="elsewhere", engine_options={"a": 1})
    assert len(fs.lm.decoder.layers) == layers, "what scores, and no more"
    pieces = []
    answer = fs.open(video).ask(question, 4, on_text=pieces.append)
    assert answer.text == expected.text == "".join(pieces) and answer.ids.tolist() == expected.ids.tolist()
    assert answer.likelihood == pytest.approx(expected.likelihood, rel=1e-4)
    assert answer.timings["prefill"] >= 0.25 and answer.timings["generate"] == 0.5
    assert answer.cost == expected.cost
    assert engines[0].arguments == (None, {"a": 1})
    assert len(engines[0].prompts[0].ids) < 120 + 40 or selector is None, "only kept tokens are sent"


def test_many_are_in_flight_and_answers_are_in_order(engines, table):
    fs = FlexSelect.from_pretrained(DEMO, selector="self", **OPTIONS, engine="elsewhere")
    sessions = [fs.open(video) for video in sorted(table.parent.glob("*.mp4"))]
    asked = [(session, f"What colour is the {shape}?") for shape in ("ring", "cross") for session in sessions]
    together = [answer.text for answer in fs.ask_all(asked, 4)]
    assert engines[0].most > 1 and together == [session.ask(question, 4).text for session, question in asked]


def test_a_run_asks_all_questions_about_a_video_together(engines, table, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    rows = {}
    for name in ("transformers", "elsewhere"):
        run = ["validate", "--config", "configs/demo/self.yaml", "--data.annotations", str(table)]
        run += ["--data.num_workers", "0", "--model.engine", name, "--output_dir", str(tmp_path / name)]
        assert cli.main(run) == 0
        file = next((tmp_path / name).glob("*predictions.jsonl"))
        rows[name] = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(engines) == 1 and engines[0].most > 1 and len(engines[0].prompts) == len(rows["elsewhere"]) == 6
    for ours, theirs in zip(*rows.values(), strict=True):
        assert [ours[key] for key in ("id", "answer", "correct", "error")] == [
            theirs[key] for key in ("id", "answer", "correct", "error")
        ]


def test_a_question_that_cannot_be_asked_costs_the_others_once(engines, table, tmp_path, monkeypatch):
    """The questions of its video are asked one by one then, and not all of them again for each."""
    monkeypatch.chdir(ROOT)
    answer, lines = Elsewhere.answer, [json.loads(line) for line in table.read_text().splitlines()]
    lines[0]["question"] = "too long"
    few = table.with_name("one_is_too_long.jsonl")
    few.write_text("\n".join(json.dumps(line) for line in lines[:3]) + "\n")

    def refused(self, prompt, on_token):
        if len(prompt.ids) == least:
            raise ValueError("the prompt is too long")
        return answer(self, prompt, on_token)

    fs = FlexSelect.from_pretrained(DEMO, selector="self", **OPTIONS)
    (request,) = fs.open(table.parent / lines[0]["video"]).requests(["too long"])
    least = fs.lm.assemble(request.encoded, request.query_ids, request.selection, fs.positions)["input_ids"].shape[1]
    monkeypatch.setattr(Elsewhere, "answer", refused)
    run = ["predict", "--config", "configs/demo/self.yaml", "--data.annotations", str(few), "--data.num_workers", "0"]
    assert cli.main([*run, "--model.engine", "elsewhere", "--output_dir", str(tmp_path)]) == 3
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [row["error"] is None for row in rows] == [False, True, True] and len(engines[0].prompts) == 6


def test_an_error_of_the_reader_ends_its_answer_only(engines, table):
    fs = FlexSelect.from_pretrained(DEMO, selector="self", **OPTIONS, engine="elsewhere")
    session = fs.open(table.parent / "needles_000.mp4")

    def broken(text):
        raise KeyError("no one listens")

    with pytest.raises(KeyError, match="no one listens"):
        session.ask("What colour is the ring?", 4, on_text=broken)
    assert session.ask("What colour is the ring?", 4).text


def test_others_use_the_model_while_one_waits(engines, table):
    fs = FlexSelect.from_pretrained(DEMO, selector="self", **OPTIONS, engine="elsewhere")
    modes, free = Modes(fs), []
    answer = engines[0].answer

    def meanwhile(*how):
        free.append(modes.lock.acquire(timeout=10))
        modes.lock.release()
        return answer(*how)

    engines[0].answer = meanwhile
    assert modes.at_once > 1
    with modes.lock:
        modes.open(table.parent / "needles_000.mp4")["training-free"].ask("What colour is the ring?", 4)
        assert modes.lock.locked()
    assert free == [True]


def test_what_cannot_be_is_refused(engines, capsys, monkeypatch):
    with pytest.raises(ValueError, match="no answer engine elsewere; did you mean elsewhere"):
        FlexSelect.from_pretrained(DEMO, engine="elsewere")
    with pytest.raises(ValueError, match="engine_url: for another engine only"):
        FlexSelect.from_pretrained(DEMO, engine_url="http://localhost:1/v1")
    fs = FlexSelect.from_pretrained(DEMO, selector="self", **OPTIONS, engine="elsewhere")
    session = fs.open(tiny.frames(8, 28, 28))
    with pytest.raises(ValueError, match="verify needs engine=transformers, got elsewhere"):
        session.ask("What?", verify=True)
    fs.lm.model.generation_config.no_repeat_ngram_size = 2
    with pytest.raises(ValueError, match=r"generation_config.json sets no_repeat_ngram_size, which needs engine="):
        session.ask("What?")
    words = ["predict", "--config", "configs/demo/self.yaml", "--model.verify", "true", "--model.engine", "vllm"]
    words += ["--data.video", "none.mp4", "--data.question", "What?"]
    monkeypatch.chdir(ROOT)
    assert cli.main(words) == 2 and "verify needs engine=transformers, got vllm" in capsys.readouterr().err


def test_an_engine_that_is_gone_ends_the_run(engines, table, tmp_path, monkeypatch, capfd):
    """What was not asked is no error of its row: the same command goes on."""
    monkeypatch.chdir(ROOT)
    run = ["predict", "--config", "configs/demo/self.yaml", "--data.annotations", str(table), "--data.num_workers", "0"]
    run += ["--model.engine", "elsewhere", "--output_dir", str(tmp_path)]
    answer = Elsewhere.answer

    def lost(self, prompt, on_token):
        if len(self.prompts) > 3:
            raise EngineLostError("the engine has gone")
        return answer(self, prompt, on_token)

    monkeypatch.setattr(Elsewhere, "answer", lost)
    assert cli.main(run) == 1 and "the engine has gone" in capfd.readouterr().err
    rows = [json.loads(line) for file in tmp_path.glob("*.jsonl") for line in file.read_text().splitlines()]
    assert len(rows) < 6 and all(row["error"] is None for row in rows)
    monkeypatch.setattr(Elsewhere, "answer", answer)
    assert cli.main(run) == 0
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and all(row["answer"] for row in rows)


def test_a_misspelt_engine_is_bad_usage(monkeypatch, capfd):
    monkeypatch.chdir(ROOT)
    words = ["predict", "--config", "configs/demo/self.yaml", "--data.video", "none.mp4", "--data.question", "What?"]
    assert cli.main([*words, "--model.engine", "vlm"]) == 2
    assert "there is no answer engine vlm; did you mean vllm? There are transformers, vllm" in capfd.readouterr().err


def test_the_endpoint_says_that_its_engine_is_gone(engines, table):
    fs = FlexSelect.from_pretrained(DEMO, selector="self", **OPTIONS, engine="elsewhere")
    answer = engines[0].answer

    def lost(*how):
        raise EngineLostError("gone")

    about = {"model": NAME, "messages": messages("file:needles_000.mp4", "What colour is the ring?")}
    with served(Modes(fs), media_root=table.parent) as server:
        engines[0].answer = lost
        status, _, body = post(server.url, about)
        assert status == 503 and "what runs the language model is gone" in body["error"]["message"]
        assert get(server.url, "health")[0] == 503
        engines[0].answer = answer
        assert post(server.url, about)[0] == 200 and get(server.url, "health")[0] == 200
        status, _, body = post(server.url, {}, path="v1/completions")
        assert status == 404 and body["error"]["code"] == "unknown_url"


@pytest.mark.parametrize("kind", ["qwen3_5", "glm4v", "minicpm_v"])
@pytest.mark.parametrize("url", [None, "http://localhost:9/v1"])
def test_a_family_that_vllm_cannot_answer_for_is_refused_at_once(kind, url, tmp_path):
    """Before anyone is sent to install vLLM, or a server is asked."""
    folder = str(tiny.BUILDERS[kind](tmp_path))
    with pytest.raises(ValueError, match=r"engine=vllm cannot answer for .* yet: its language model is "):
        FlexSelect.from_pretrained(folder, device="cpu", engine="vllm", engine_url=url)
