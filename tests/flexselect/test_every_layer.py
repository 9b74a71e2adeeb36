"""Scores of all layers at once, against the probe layer by layer."""

import pytest
import torch

from flexselect.analysis.every_layer import EveryLayerProbe, layer_scores, recall_at
from flexselect.attention.layers import attention_layers
from flexselect.attention.probe import Probe, probed_scores
from tests import tiny


def test_one_pass_gives_what_the_probe_gives_at_each_layer(load):
    fs = load()
    prompt = tiny.prompt(fs)
    encoded, rows = fs.encode(prompt), len(prompt.query_ids)
    arguments = fs.lm.assemble(encoded, prompt.query_ids, None, "original")
    visual = slice(len(prompt.prefix_ids), len(prompt.prefix_ids) + encoded.num_tokens)
    before, passes = fs.lm.decoder.config._attn_implementation, []
    hook = fs.lm.decoder.layers[-1].register_forward_hook(lambda *_: passes.append(1))
    embedded = arguments["inputs_embeds"], arguments["position_ids"]
    scores = layer_scores(fs.lm.decoder, *embedded, EveryLayerProbe(rows, visual, ("max", "mean")))
    hook.remove()
    layers = attention_layers(fs.lm.decoder.config)
    assert scores.shape == (len(layers), 2, 1, encoded.num_tokens) and passes == [1]
    assert fs.lm.decoder.config._attn_implementation == before
    for layer, of_layer in zip(layers, scores):
        for reduction, result in zip(("max", "mean"), of_layer):
            expected = probed_scores(fs.lm.decoder, *embedded, Probe(layer, rows, visual, reduction))
            torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-5)
    if len(layers) > 1:
        assert not torch.allclose(scores[0], scores[-1], atol=1e-3), "canary: layers differ"


@pytest.mark.parametrize(
    ("scores", "needle", "expected"),
    [
        ([0.1, 0.9, 0.8, 0.0], [1, 2], 1.0),
        ([0.1, 0.9, 0.8, 0.0], [2, 3], 0.5),
        ([0.1, 0.9, 0.8, 0.0], [0], 0.0),
    ],
)
def test_recall(scores, needle, expected):
    both = torch.stack([torch.tensor(scores), -torch.tensor(scores)])
    assert float(recall_at(both, torch.tensor(needle))[0]) == expected


def test_recall_by_chance_is_the_needles_share():
    scores = torch.rand(400, 90, generator=torch.Generator().manual_seed(0))
    assert float(recall_at(scores, torch.arange(30, 39)).mean()) == pytest.approx(0.1, abs=0.02)
