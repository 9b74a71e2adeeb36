"""The probe against the model's own attention matrices, and its memory."""

import warnings
from inspect import signature

import pytest
import torch

from bench.probe import inputs as probe_inputs
from bench.probe import measured, whole_tensor
from flexselect.attention.layers import attention_layers
from flexselect.attention.probe import Probe, probed_scores, resolve_reduction, visual_attention
from flexselect.attention.states import cache_keyword, cache_of, join
from flexselect.scoring.reference_layer import ReferenceLayerScorer
from tests import tiny
from tests.processes import server


def inputs(fs, batch: int = 1):
    prompt = tiny.prompt(fs)
    encoded = fs.encode(prompt)
    assembled = fs.lm.assemble(encoded, prompt.query_ids, None, "original")
    visual = slice(len(prompt.prefix_ids), len(prompt.prefix_ids) + encoded.num_tokens)
    return assembled, visual, len(prompt.query_ids)


@pytest.mark.parametrize("layer", [0, 2, 3])
@pytest.mark.parametrize("reduction", ["max", "mean"])
def test_equals_eager_attention(load, layer, reduction):
    fs = load()
    with_attention = attention_layers(fs.lm.decoder.config)
    if layer not in with_attention:
        pytest.skip("a recurrent layer of a hybrid")
    assembled, visual, rows = inputs(fs)
    scores = probed_scores(
        fs.lm.decoder, assembled["inputs_embeds"], assembled["position_ids"], Probe(layer, rows, visual, reduction)
    )
    fs.lm.decoder.set_attn_implementation("eager")
    del assembled["input_ids"]
    weights = fs.lm.decoder(**assembled, output_attentions=True).attentions
    weights = weights[with_attention.index(layer)][:, :, -rows:, visual]
    expected = weights.amax((1, 2)) if reduction == "max" else weights.mean((1, 2))
    torch.testing.assert_close(scores, expected, atol=1e-6, rtol=1e-5)
    other = weights.mean((1, 2)) if reduction == "max" else weights.amax((1, 2))
    assert not torch.allclose(scores, other, atol=1e-3), "canary: the two reductions must be told apart"


@pytest.mark.parametrize("reduction", ["max", "mean"])
def test_chunk_size_does_not_matter(reduction):
    q, k = torch.randn(2, 6, 5, 8), torch.randn(2, 2, 40, 8)
    whole = visual_attention(q, k, slice(3, 35), 0.35, reduction, chunk=1000)
    for chunk in (1, 7, 40):
        torch.testing.assert_close(visual_attention(q, k, slice(3, 35), 0.35, reduction, chunk=chunk), whole)
    assert whole.std() > 1e-3, "canary: scores must differ between tokens"


def test_is_causal_among_query_rows():
    q, k = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 20, 8)
    later = k.clone()
    later[:, :, -1] += 5  # the last key is seen by the last row only
    first, second = (visual_attention(q[:, :, :3], x[:, :, :19], slice(0, 16), 1.0) for x in (k, later))
    assert torch.equal(first, second)
    assert not torch.equal(visual_attention(q, k, slice(0, 16), 1.0), visual_attention(q, later, slice(0, 16), 1.0))


def test_nothing_after_the_layer_is_computed_and_nothing_stays_behind(load):
    fs = load()
    assembled, visual, rows = inputs(fs)
    reached = []
    for i, layer in enumerate(fs.lm.decoder.layers):
        layer.mlp.register_forward_hook(lambda *_, i=i: reached.append(i))
    probe = Probe(2, rows, visual, "max")
    probed_scores(fs.lm.decoder, assembled["inputs_embeds"], assembled["position_ids"], probe)
    assert reached == [0, 1]
    assert fs.lm.decoder.config._attn_implementation == "sdpa"


def test_attention_is_put_back_after_an_error(load):
    fs = load()
    assembled, visual, rows = inputs(fs)
    with pytest.raises(Exception):
        probed_scores(
            fs.lm.decoder, assembled["inputs_embeds"][..., :5], assembled["position_ids"], Probe(2, rows, visual, "max")
        )
    assert fs.lm.decoder.config._attn_implementation == "sdpa"


def test_a_layer_that_does_not_exist_is_refused(load):
    fs = load()
    assembled, visual, rows = inputs(fs)
    with pytest.raises(ValueError, match="reference layer 9 was never reached"):
        probed_scores(
            fs.lm.decoder, assembled["inputs_embeds"], assembled["position_ids"], Probe(9, rows, visual, "max")
        )
    with pytest.raises(ValueError, match=r"reference_layer must be .* for this model, got -1"):
        ReferenceLayerScorer(fs.lm, -1)


def test_the_cache_goes_by_the_name_that_the_decoder_has(load):
    """transformers called it `past_key_values` before 5.24, warns of that name since, and drops it with 5.40."""

    def older(inputs_embeds, past_key_values=None): ...

    def newer(inputs_embeds, cache=None): ...

    for forward, name in ((older, "past_key_values"), (newer, "cache")):
        assert cache_keyword(type("Decoder", (), {"forward": forward})()) == name

    fs = load(selector="self", budget=8)
    accepted = signature(fs.lm.decoder.forward).parameters
    assert cache_keyword(fs.lm.decoder) in accepted
    with warnings.catch_warnings(record=True) as output:
        warnings.simplefilter("always")
        session = fs.open(tiny.frames())
        session.ask("What colour is the circle?", max_new_tokens=2)
        session.ask("What colour is the square?", max_new_tokens=2)  # from the states that the first one left
    assert not [str(one.message) for one in output if "past_key_values" in str(one.message)]


def some_states(batch, length, layers=2):
    generator = torch.Generator().manual_seed(batch)
    return [tuple(torch.randn(batch, 2, length, 4, generator=generator) for _ in range(2)) for _ in range(layers)]


def test_joined_states_have_room_for_a_question():
    """New states are written behind them, so nothing is copied; a longer question gets a copy."""
    batches = [some_states(batch, 40) for batch in (1, 2)]
    expected = [tuple(torch.cat(pair) for pair in zip(*layers)) for layers in zip(*batches)]
    past = join([list(batch) for batch in batches])
    for layer, (keys, values) in enumerate(past):
        assert torch.equal(keys, expected[layer][0]) and torch.equal(values, expected[layer][1])
    for rows, copied in ((3, False), (5, False), (6, True)):  # an eighth of 40 rows is free
        new = torch.randn(2, 3, 2, rows, 4)
        cache = cache_of(past, use_room=True)
        keys, values = cache.update(new[0], new[1], 1)
        assert torch.equal(keys, torch.cat([expected[1][0], new[0]], 2))
        assert torch.equal(values, torch.cat([expected[1][1], new[1]], 2))
        assert (keys.data_ptr() != past[1][0].data_ptr()) == copied and cache.get_seq_length(1) == 40 + rows
    assert torch.equal(past[1][0], expected[1][0]), "the states themselves stay"


def test_states_that_lie_beside_others_are_never_written_behind():
    """A part of a larger tensor, such as one prompt of a batch: what follows belongs to something else."""
    for part in (slice(0, 30), slice(5, 30)):
        whole = torch.randn(1, 2, 40, 4)
        new = torch.randn(1, 2, 3, 4)
        for other in (whole, whole[:, :1], torch.cat([whole, whole])[1:]):
            keys = other[:, :, part]
            heads = keys.shape[1]
            before, expected = whole.clone(), torch.cat([keys, new[:, :heads]], 2)
            result, _ = cache_of([(keys, keys)], use_room=True).update(new[:, :heads], new[:, :heads], 0)
            assert torch.equal(result, expected)
            assert torch.equal(whole, before) or (part.start == 0 and other is whole), "only behind its own"


def test_released_names_of_reductions():
    assert resolve_reduction("token_selection") == "max"  # named a mean in its README, a max in its code
    assert resolve_reduction("token_selection_mean") == "mean"
    with pytest.raises(ValueError, match="unknown reduction 'median'"):
        resolve_reduction("median")


def test_extra_memory_stays_under_200_mb():
    """At 65,536 keys; the straightforward version is measured at a quarter of them, where it is slow enough."""
    assert measured(visual_attention, 65536, 1, server())[0] < 200
    whole_mb, _, expected = measured(whole_tensor, 16384, 1, server())
    assert whole_mb > 375, "canary: the straightforward version must be seen to be large"
    assert abs(visual_attention(*probe_inputs(16384)).numpy() - expected).max() < 1e-6
