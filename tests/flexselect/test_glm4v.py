"""GLM-4V: a timestamp after each unit, and a prompt that the chat template writes. The contract runs in `-m slow`."""

import pytest
import torch

from flexselect import FlexSelect
from flexselect.families import family_of
from tests import tiny
from tests.flexselect.test_qwen3_vl import keep, prompt, shown, tensors
from tests.near import assert_near


def opened(folder, **options):
    options = {"selector": "self", "units_per_set": 3, **options}
    return FlexSelect.from_pretrained(str(folder), dtype="float32", device="cpu", **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.glm4v(tmp_path_factory.mktemp("glm4v"))


@pytest.mark.parametrize("experts", [False, True])
@torch.inference_mode()
def test_dense_equals_the_models_own_forward_and_generation_from_pixels(experts, tmp_path):
    fs = opened(tiny.glm4v(tmp_path, experts=experts))
    some = prompt(fs)
    arguments = tensors(fs, some)
    arguments["mm_token_type_ids"] = (arguments["input_ids"] == fs.lm.visual_id).int() * 2
    arguments["attention_mask"] = torch.ones_like(arguments["input_ids"])
    original = fs.lm.model(**arguments).logits[0, -1]
    torch.testing.assert_close(fs.next_token_logits(some), original, atol=1e-5, rtol=1e-4)
    written = fs.lm.model.generate(**arguments, max_new_tokens=6, do_sample=False)[0, arguments["input_ids"].shape[1] :]
    assert fs.generate(some, None, 6).tolist() == written.tolist()
    layout, grid = fs.encode(some).layout(some.query_ids, fs.lm.visual_id), arguments["video_grid_thw"]
    kinds = arguments["mm_token_type_ids"]
    expected = fs.lm.model.model.get_rope_index(arguments["input_ids"], mm_token_type_ids=kinds, video_grid_thw=grid)[0]
    assert torch.equal(fs.lm.position_ids(layout, some.clip.grid, 1.0), expected[:, 0])


def test_a_session_scores_as_from_scratch_and_in_batches_as_one_by_one(folder):
    fs = opened(folder)
    session = fs.open(tiny.frames(18), range(18), keep="scores_kv")  # 9.0 and 10.0: texts of two lengths
    session.ask("Which shape is red?", 1)
    fresh = fs.open(tiny.frames(18), range(18), keep="features").ask("Why?", 3)
    later = session.ask("Why?", 3)
    torch.testing.assert_close(later.selection.scores, fresh.selection.scores, atol=1e-6, rtol=1e-5)
    assert later.text == fresh.text
    alone = opened(folder, tokens_per_batch=1).open(tiny.frames(18), range(18), keep="features").select("Why?")
    torch.testing.assert_close(later.selection.scores, alone.scores, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(later.selection.scores, session.select("Who is it?").scores, atol=1e-3), "canary"


def test_the_prompt_is_that_of_the_chat_template(folder):
    fs = opened(folder)
    some = prompt(fs, count=4)
    text = shown(fs, some, None).replace("<|image|>", ".")
    content = [{"type": "video"}, {"type": "text", "text": "Why?"}]
    whole = fs.lm.prompter.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    unit = "<|begin_of_image|>......<|end_of_image|>{} seconds".format
    assert text == whole.replace("<|video|>", unit(7.5) + unit(8.5))
    again = fs.prompt_from_tensors(**tensors(fs, some))
    assert torch.equal(again.prefix_ids, some.prefix_ids) and torch.equal(again.query_ids, some.query_ids)
    assert_near(fs.next_token_logits(again), fs.next_token_logits(some))
    encoded = fs.encode(some)
    assert shown(fs, some, keep(encoded, [7])).replace("<|image|>", ".") == whole.replace(
        "<|video|>", "<|begin_of_image|>.<|end_of_image|>8.5 seconds"
    )


def test_the_time_of_the_last_unit_is_no_row_of_the_question(folder):
    """It is text after the last visual token too, and attends to the unit that it belongs to."""
    fs = opened(folder)
    some = prompt(fs, count=4)
    layout = fs.encode(some).layout(some.query_ids, fs.lm.visual_id)
    assert layout.query_rows == len(some.query_ids) < len(layout.ids) - layout.span.stop


def test_a_checkpoint_without_a_chat_template_is_refused(folder, tmp_path):
    for file in folder.iterdir():
        if "template" not in file.name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="its chat template, from which the prompt is taken, is missing"):
        family_of(str(tmp_path)).prompter()
