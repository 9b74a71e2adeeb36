"""Windows of a vision tower, together: the same features from far fewer calls."""

import pytest
import torch

from flexselect import FlexSelect
from flexselect.attention import windows
from tests import tiny


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_batched_windows_equal_transformers_own(name, tmp_path, monkeypatch):
    """Frames whose last windows are smaller: several lengths in one row."""
    folder = tiny.BUILDERS[name](tmp_path)
    fs = FlexSelect.from_pretrained(str(folder), dtype="float32", device="cpu")
    tower, frames = fs.lm.model.model.visual, tiny.frames(12, 252, 308)
    assert tower.config._attn_implementation == windows.BATCHED
    calls = {"ours": 0, "own": 0}

    def counted(key, attention):
        def count(*args, **kwargs):
            calls[key] += 1
            return attention(*args, **kwargs)

        return count

    actual = counted("ours", windows.scaled_dot_product_attention)
    monkeypatch.setattr(windows, "scaled_dot_product_attention", actual)
    batched = fs.open(frames, range(12)).encode().features
    tower.config._attn_implementation_internal = "sdpa"
    original = counted("own", torch.nn.functional.scaled_dot_product_attention)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", original)
    plain = fs.open(frames, range(12)).encode().features
    assert float((batched - plain).abs().max()) <= 1e-5 * float(plain.abs().max())
    assert 0 < 3 * calls["ours"] <= calls["own"]


def test_a_chosen_attention_is_left_alone(tmp_path):
    folder = tiny.qwen2_5_vl(tmp_path)
    fs = FlexSelect.from_pretrained(str(folder), dtype="float32", device="cpu", attn_implementation="eager")
    assert fs.lm.model.model.visual.config._attn_implementation == "eager"
