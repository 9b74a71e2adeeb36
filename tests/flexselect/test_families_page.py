"""docs/families.md: every number in its table is what the code gives for the published configuration."""

import json
from pathlib import Path

import pytest

from flexselect.attention.layers import attention_layers, states_bytes
from flexselect.families import FAMILIES, family_of
from tests.flexselect.test_published_sizes import MODELS

PAGE = (Path(__file__).parents[2] / "docs" / "families.md").read_text(encoding="utf-8")


def row(family, name):
    """A line of the table: class, layers, those with attention, reference layer, and what a session keeps."""
    text, layer = family.model_config.get_text_config(), family.default_reference_layer
    with_attention = attention_layers(text)
    layers = f"{text.num_hidden_layers}"
    if len(with_attention) < text.num_hidden_layers:
        layers += f"; {', '.join(map(str, with_attention[:2]))}, ... {with_attention[-1]}"
    growing, fixed = (states_bytes(text, layer + 1, *counts, 2) for counts in ((1, 0), (0, 1)))
    kept = f"{growing / 1e3:.0f} KB" + (f", and {fixed / 1e6:.0f} MB per frame set" if fixed else "")
    return f"| {name} | `{type(family).__name__}` | {layers} | {layer} | {kept} |"


@pytest.mark.parametrize("name", MODELS)
def test_rows_are_what_the_code_gives(name, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(MODELS[name][0]))
    assert row(family_of(str(tmp_path)), name) in PAGE.splitlines()


def test_every_family_is_there():
    for family in FAMILIES:
        assert f"`{family.__name__}`" in PAGE, family
