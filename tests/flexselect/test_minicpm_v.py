"""MiniCPM-V 4.6: packed frames, and the prompt of its chat template. The contract runs in `-m slow`."""

import pytest
import torch
from transformers.models.minicpmv4_6.video_processing_minicpmv4_6 import MiniCPMV4_6VideoProcessor

from flexselect import FlexSelect, Selection, VideoPrompt
from flexselect.families import family_of
from tests import tiny
from tests.near import assert_near


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.minicpm_v(tmp_path_factory.mktemp("minicpm_v"))


@pytest.fixture
def fs(folder):
    return FlexSelect.from_pretrained(str(folder), selector="self", dtype="float32", device="cpu", units_per_set=3)


def prompt(fs, count=7):
    prompter = fs.lm.prompter
    return VideoPrompt(
        prompter.clip(prompter.resize(tiny.frames(count))), prompter.prefix_ids, prompter.query_ids("Why?")
    )


def own_arguments(fs, some):
    """Ids and pixels as transformers' own processor makes them."""
    units, rows, columns = some.clip.grid
    ids = [some.prefix_ids]
    for before, after in some.clip.delimiters:
        ids += [before, torch.full((rows * columns,), fs.lm.visual_id), after]
    processor = MiniCPMV4_6VideoProcessor(slice_mode=False, scale_resolution=round((112 * 168) ** 0.5))
    video = tiny.frames(units).permute(0, 3, 1, 2)
    made = processor(videos=[video], do_sample_frames=False, return_tensors="pt")
    ids = torch.cat([*ids, some.query_ids])[None]
    pixels = {name: made[name] for name in ("pixel_values_videos", "target_sizes_videos")}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pixels}


@torch.inference_mode()
def test_dense_equals_the_models_own_forward_and_generation_from_pixels(fs):
    """Through transformers' processor and packing; resizing differs by its rounding of bytes."""
    some = prompt(fs)
    arguments = own_arguments(fs, some)
    assert some.clip.grid[1:] == (2, 3), "4 x 6 patches after the merge in the tower"
    row, sizes = fs.lm.packed(fs.lm.prompter.pixel_values(some.clip, 0, 7))
    assert torch.equal(sizes, arguments["target_sizes_videos"])
    torch.testing.assert_close(row, arguments["pixel_values_videos"].view_as(row), atol=0.02, rtol=0)
    exact = {**arguments, "pixel_values_videos": row}
    original = fs.lm.model(**exact).logits[0, -1]
    torch.testing.assert_close(fs.next_token_logits(some), original, atol=1e-5, rtol=1e-4)
    assert_near(fs.lm.logits_from_pixels(some), original)
    written = fs.lm.model.generate(**exact, max_new_tokens=6, do_sample=False)[0, arguments["input_ids"].shape[1] :]
    assert fs.generate(some, None, 6).tolist() == written.tolist()


def test_a_session_scores_as_from_scratch(fs):
    session = fs.open(tiny.frames(7), range(7), keep="scores_kv")
    session.ask("Which shape is red?", 1)
    fresh = fs.open(tiny.frames(7), range(7), keep="features").ask("Why?", 3)
    later = session.ask("Why?", 3)
    torch.testing.assert_close(later.selection.scores, fresh.selection.scores, atol=1e-6, rtol=1e-5)
    assert later.text == fresh.text
    assert not torch.allclose(later.selection.scores, session.select("Who is it?").scores, atol=1e-3), "canary"


def test_the_prompt_is_that_of_the_chat_template(fs):
    some = prompt(fs, count=3)
    encoded = fs.encode(some)
    frame = "<image>......</image>"

    def shown(selection):
        inputs = fs.lm.assemble(encoded, some.query_ids, selection, "compact")
        text = fs.lm.prompter.tokenizer.decode(inputs["input_ids"][0].tolist())
        return text.replace("<|video_pad|>", ".")

    start, end = (
        "<|im_start|>user\n<image_id>0</image_id>",
        "Why?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    )
    assert shown(None) == start + 3 * frame + end
    kept = Selection(torch.zeros(18), torch.tensor([7, 8]), [torch.arange(18)])
    assert shown(kept) == f"{start}<image>..</image>{end}"


def test_what_is_not_as_published_is_refused(folder, tmp_path):
    config = (folder / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"merger_times": 1', '"merger_times": 2'))
    with pytest.raises(ValueError, match="its merger is not the one that was published"):
        family_of(str(tmp_path))
    for file in folder.iterdir():
        if "template" not in file.name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="its chat template, from which the prompt is taken, is missing"):
        family_of(str(tmp_path)).prompter()
