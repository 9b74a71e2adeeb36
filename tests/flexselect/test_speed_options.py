"""Options that make things faster change no answer."""

import functools

import pytest
import torch
from transformers.utils import is_flash_attn_2_available

from flexselect import FlexSelect
from tests import tiny

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


def test_compiled_layers(checkpoint, monkeypatch):
    """With the backend that writes no code: what is traced, and where it is left, is the same."""
    calls = []
    compiled = torch.nn.Module.compile

    def compile_eagerly(module, **options):
        calls.append(options)
        compiled(module, backend="eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_eagerly)
    options = {"selector": "self", "budget": 6, "units_per_set": 2, "dtype": "float32", "device": "cpu"}
    fs = FlexSelect.from_pretrained(str(checkpoint), **options, compile=True)
    assert len(calls) == len(fs.lm.decoder.layers)
    plain = FlexSelect.from_pretrained(str(checkpoint), **options)
    for keep in ("features", "scores_kv"):
        same(answered(fs, keep), answered(plain, keep))


@pytest.mark.skipif(not is_flash_attn_2_available(), reason="needs a GPU and flash-attn, or its kernel from the hub")
def test_flash_attention(checkpoint):
    of = functools.partial(FlexSelect.from_pretrained, str(checkpoint), selector="self", dtype="bfloat16", budget=6)
    plain, flash = (answered(of(attn_implementation=name)) for name in ("sdpa", "flash_attention_2"))
    same(flash, plain, tolerance=1e-2)
