"""LLaVA-OneVision: LLaVA-Video's files and classes, with a single newline after the last frame."""

import json

import pytest
import torch

from flexselect import FlexSelect, Selection
from flexselect.families import LlavaVideo, family_of
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tiny.llava_video(tmp_path_factory.mktemp("llava_onevision"))
    config = json.loads((folder / "config.json").read_text())
    del config["mm_newline_position"]  # as LLaVA-OneVision was released
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def fs(folder):
    return FlexSelect.from_pretrained(str(folder), selector="self", dtype="float32", device="cpu")


@torch.inference_mode()
def test_dense_equals_the_models_own_forward_from_pixels(fs):
    prompt = tiny.prompt(fs, count=3)
    video = fs.lm.prompter.pixel_values(prompt.clip, 0, 3)[None]
    own_id = fs.lm.model.config.video_token_id = 400  # the released id is beyond the tiny vocabulary
    ids = torch.cat([prompt.prefix_ids, torch.full((3 * 196 + 1,), own_id), prompt.query_ids])[None]
    original = fs.lm.model(input_ids=ids, pixel_values_videos=video, attention_mask=torch.ones_like(ids))
    torch.testing.assert_close(fs.next_token_logits(prompt), original.logits[0, -1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fs.lm.logits_from_pixels(prompt), original.logits[0, -1].float(), atol=1e-5, rtol=1e-4)
    assert fs.encode(prompt).num_tokens == 3 * 196


def test_the_newline_goes_with_the_last_frame(fs):
    prompt = tiny.prompt(fs, count=3)
    encoded = fs.encode(prompt)
    newline = fs.lm.model.model.image_newline

    def shown(kept):
        selection = Selection(torch.zeros(588), torch.tensor(kept), [torch.arange(588)])
        return fs.lm.assemble(encoded, prompt.query_ids, selection, "compact")["inputs_embeds"][0]

    with_last, without = shown([5, 400]), shown([5, 300])
    assert len(with_last) == len(without) + 1
    place = len(prompt.prefix_ids) + 2
    assert torch.equal(with_last[place], newline) and not torch.equal(without[place], newline)
    assert len(fs.select(prompt).kept) == 9


def test_which_of_the_two_it_is_comes_from_the_config(folder, tmp_path):
    assert family_of(str(folder)).unit_shape == (14, 14)
    assert family_of(str(folder), newlines="grid").unit_shape == (14, 15)
    with pytest.raises(ValueError, match="newlines must be one of grid, one_token, got 'nonsense'"):
        LlavaVideo(str(folder), newlines="nonsense")
    assert family_of(str(tiny.llava_video(tmp_path))).unit_shape == (14, 15)
    assert LlavaVideo(str(folder)).settings["newlines"] == "one_token", "two runs that differ in it must not be mixed"
