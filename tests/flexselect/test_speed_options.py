"""Options that make things faster change no answer."""

import functools

import pytest
import torch
from transformers import CompileConfig
from transformers.utils import is_flash_attn_2_available

from flexselect import FlexSelect
from tests import tiny
from tests.fixtures import slow_but

QUESTIONS = ("Which shape is red?", "Why?")


def answered(fs, keep="features"):
    session = fs.open(tiny.frames(4, 56, 84), range(4), keep=keep)
    return [session.ask(question, max_new_tokens=5) for question in QUESTIONS]


def same(one, other, tolerance=1e-6):
    for a, b in zip(one, other):
        assert a.text == b.text and torch.equal(a.selection.kept, b.selection.kept)
        torch.testing.assert_close(a.selection.scores, b.selection.scores, atol=tolerance, rtol=tolerance)


def test_a_static_cache(load):
    seen = []
    fs = load(selector="self", budget=6, units_per_set=4, cache_implementation="static")
    generate = fs.lm.model.generate
    fs.lm.model.generate = lambda **arguments: seen.append(arguments["cache_implementation"]) or generate(**arguments)
    plain = answered(load(selector="self", budget=6, units_per_set=4))
    same(answered(fs), plain)
    assert seen == ["static"] * 2
    together = fs.open(tiny.frames(4, 56, 84), range(4)).ask_all(QUESTIONS, 5)
    assert [answer.text for answer in together] == [answer.text for answer in plain]


@pytest.fixture
def graphs(monkeypatch):
    """How often each graph ran. The backend writes no code; what is traced, and where it is left, is the same."""
    graphs = []
    compiled = torch.nn.Module.compile

    def backend(graph, inputs):
        number = len(graphs)
        graphs.append(0)

        def run(*values):
            graphs[number] += 1
            return graph(*values)

        return run

    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda module, **options: compiled(module, backend=backend, **options)
    )
    yield graphs
    torch.compiler.reset()


SOONER = {"qwen2_5_vl", "llava_video", "internvl", "qwen3_vl"}  # compiled within a second


@pytest.mark.parametrize(
    "model_folder",
    slow_but(SOONER.__contains__, tiny.BUILDERS),
    indirect=True,
)
def test_compiled_layers(load, graphs):
    options = {"selector": "self", "budget": 6, "units_per_set": 2}
    fs, plain = load(**options, compile=True), load(**options)
    for keep in ("features", "scores_kv"):
        same(answered(fs, keep), answered(plain, keep))
    assert sum(graphs) > 3 * len(plain.lm.decoder.layers)


def test_layers_share_their_graphs(tmp_path, graphs):
    """More layers than the times that dynamo compiles one function for (8); later questions compile nothing."""
    tiny.qwen2_5_vl(tmp_path, layers=12)
    options = {"selector": "self", "budget": 6, "units_per_set": 2, "dtype": "float32", "device": "cpu"}
    fs = FlexSelect.from_pretrained(str(tmp_path), **options, compile=True)
    fs.open(tiny.frames(8, 56, 84), range(8)).ask("Which shape is red?", 5)
    first = len(graphs)
    assert first == 6, "norm and MLP: for several sets, for one prompt, and for one new token"
    answered(fs, "scores_kv")
    fs.open(tiny.frames(12, 56, 84), range(12)).ask("Who has the key, and where did they go?", 7)
    assert len(graphs) == first
    before = sum(graphs)
    fs.next_token_logits(tiny.prompt(fs, count=4))
    assert sum(graphs) - before == 12 * 3, "an MLP and two norms in every layer"


OTHERS = ("llava_video", "qwen3_vl")


@pytest.mark.parametrize("family", ["qwen2_5_vl", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_a_static_cache_of_one_size_is_compiled_once(family, tmp_path):
    """`generate` compiles decoding by itself on a GPU; a question of another length needs no other cache."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    options = {"selector": "self", "budget": 6, "units_per_set": 4, "dtype": "float32", "device": "cpu"}
    folder = str(tiny.BUILDERS[family](tmp_path))
    fs = FlexSelect.from_pretrained(folder, **options, cache_implementation="static")
    config = CompileConfig(backend=backend, fullgraph=False, mode=None)
    config._compile_all_devices = True
    fs.lm.model.generation_config.compile_config = config
    session, counts = fs.open(tiny.frames(4, 56, 84), range(4)), []
    for question, new in (("Which shape is red?", 5), ("Why?", 4), ("Who has the key, and where did they go?", 7)):
        session.ask(question, new)
        counts.append(len(graphs))
    torch.compiler.reset()
    assert 0 < counts[0] == counts[1] == counts[2], counts


@pytest.mark.skipif(not is_flash_attn_2_available(), reason="needs a GPU and flash-attn, or its kernel from the hub")
def test_flash_attention(checkpoint):
    of = functools.partial(FlexSelect.from_pretrained, str(checkpoint), selector="self", dtype="bfloat16", budget=6)
    plain, flash = (answered(of(attn_implementation=name)) for name in ("sdpa", "flash_attention_2"))
    same(flash, plain, tolerance=1e-2)
