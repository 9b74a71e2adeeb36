"""The command line and the endpoint with vLLM: the same answers. In an environment of its own: `make test-vllm`."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

import cli
from datamodules.needles import write_needle_videos
from flexselect import FlexSelect
from flexselect.page.modes import Modes
from tests import tiny
from tests.serving.servers import counter, messages, served, until
from tests.test_architecture import ROOT

pytest.importorskip("vllm", reason="NOT CHECKED through vLLM: it is not installed; see `make test-vllm`")

SMALL = {"enforce_eager": True, "max_model_len": 512, "block_size": 32, "seed": 0}
CLIENTS, VIDEOS = 32, 4


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny.qwen2_5_vl(tmp_path_factory.mktemp("model"), hidden=128))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_needle_videos(tmp_path_factory.mktemp("videos"), videos=VIDEOS, patches=6, questions=3)


def test_predict_and_validate_write_the_same_rows(model, table, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    lines = table.read_text().splitlines()
    lines[1] = json.dumps({**json.loads(lines[1]), "question": "long " * 600})  # more than the engine takes
    table = table.with_name("with_a_long_one.jsonl")
    table.write_text("\n".join(lines) + "\n")
    engine = ["--model.engine", "vllm", "--model.engine_options", json.dumps(SMALL)]
    rows = {}
    for verb in ("predict", "validate"):
        for name, more in (("transformers", []), ("vllm", engine)):
            run = [verb, "--config", "configs/demo/self.yaml", "--family.path", model, "--data.annotations", str(table)]
            run += ["--data.num_workers", "0", "--model.budget", "9", "--output_dir", str(tmp_path / verb / name)]
            assert cli.main([*run, *more]) == (3 if more else 0)
            file = next((tmp_path / verb / name).glob("*predictions.jsonl"))
            rows[name] = [json.loads(line) for line in file.read_text().splitlines()]
        assert len(rows["vllm"]) == 3 * VIDEOS
        refused, _ = rows["vllm"].pop(1), rows["transformers"].pop(1)
        assert "more than max_model_len=512" in refused["error"] and refused["answer"] is None
        for ours, theirs in zip(*rows.values(), strict=True):
            assert theirs.pop("likelihood") == pytest.approx(ours.pop("likelihood"), rel=1e-3)
            assert theirs.pop("presence") == pytest.approx(ours.pop("presence"), abs=1e-2)
            assert set(theirs.pop("timings")) == set(ours.pop("timings"))
            assert theirs == ours
    settings = json.loads((tmp_path / "predict" / "vllm" / "settings.json").read_text())
    assert "vllm" in json.dumps(settings), "a run with another engine is another run"


def test_32_clients_are_answered_at_the_same_time(model, table):
    """About four videos: each is encoded once, and all answers are right."""
    videos = sorted(table.parent.glob("*.mp4"))
    options = {"selector": "self", "dtype": "float32", "device": "cpu", "budget": 9}
    fs = FlexSelect.from_pretrained(model, **options)
    asked = [(video, f"What is number {number}?") for number in range(CLIENTS // VIDEOS) for video in videos]
    sessions = {video: fs.open(video) for video in videos}
    expected = [sessions[video].ask(question, 8).text for video, question in asked]
    fs = FlexSelect.from_pretrained(model, **options, engine="vllm", engine_options=SMALL)
    modes, most = Modes(fs), []
    submit = fs.answer_engine.submit

    def watched(prompt, on_token):
        future = submit(prompt, on_token)
        most.append(future)
        running.append(sum(not other.done() for other in most))
        return future

    running = []
    fs.answer_engine.submit = watched
    with served(modes, media_root=table.parent) as server, ThreadPoolExecutor(CLIENTS) as clients:
        from openai import OpenAI

        client = OpenAI(base_url=server.url + "v1", api_key="none", max_retries=0)

        def ask(pair, stream):
            about = messages(pair[0].as_uri(), pair[1])
            reply = client.chat.completions.create(model="video_llm", messages=about, stream=stream)
            if not stream:
                return reply.choices[0].message.content
            return "".join(chunk.choices[0].delta.content or "" for chunk in reply if chunk.choices)

        answers = list(clients.map(ask, asked, [number % 2 == 0 for number in range(CLIENTS)]))
        assert answers == expected
        assert server.encodings == VIDEOS
        until(lambda: counter(server.url, "flexselect_requests_in_progress") == 0)
    assert max(running) > 4, "several answers are generated at a time"
    fs.close()
