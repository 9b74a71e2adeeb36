"""Qwen3-VL: timestamps between the units, and features that are added in the first decoder layers."""

import dataclasses

import pytest
import torch

from flexselect import FlexSelect, Selection, VideoPrompt
from flexselect.scoring.reference_layer import ReferenceLayerScorer
from tests import tiny
from tests.near import assert_near


@pytest.fixture(scope="module")
def fs(tmp_path_factory):
    folder = tiny.qwen3_vl(tmp_path_factory.mktemp("qwen3_vl"))
    return FlexSelect.from_pretrained(str(folder), selector="self", dtype="float32", device="cpu", units_per_set=3)


def clip(fs, count=14, start=7.5):
    prompter = fs.lm.prompter
    return prompter.clip(prompter.resize(tiny.frames(count)), torch.arange(count) * 0.5 + start)


def prompt(fs, **options):
    return VideoPrompt(clip(fs, **options), fs.lm.prompter.prefix_ids, fs.lm.prompter.query_ids("Why?"))


def tensors(fs, prompt):
    """As transformers' own processor lays a prompt out."""
    units, rows, columns = prompt.clip.grid
    ids = [prompt.prefix_ids]
    for before, after in prompt.clip.delimiters:
        ids += [before, torch.full((rows * columns,), fs.lm.visual_id), after]
    return {
        "input_ids": torch.cat([*ids, prompt.query_ids])[None],
        "pixel_values_videos": fs.lm.prompter.pixel_values(prompt.clip, 0, units),
        "video_grid_thw": torch.tensor([[units, 2 * rows, 2 * columns]]),
    }


def keep(encoded, tokens):
    return Selection(torch.zeros(encoded.num_tokens), torch.tensor(tokens), [torch.arange(encoded.num_tokens)])


def shown(fs, prompt, selection):
    """The prompt's text after selection, visual tokens as dots."""
    inputs = fs.lm.assemble(fs.encode(prompt), prompt.query_ids, selection, "original")
    text = fs.lm.prompter.tokenizer.decode(inputs["input_ids"][0].tolist())
    return text.replace("<|video_pad|>", ".")


def test_each_unit_follows_its_timestamp(fs):
    text = shown(fs, prompt(fs, count=5), None)
    frames = ".".join([""] * 7)  # 2 x 3 tokens
    assert text == (
        "<|im_start|>user\n"
        f"<7.8 seconds><|vision_start|>{frames}<|vision_end|>"
        f"<8.8 seconds><|vision_start|>{frames}<|vision_end|>"
        f"<9.5 seconds><|vision_start|>{frames}<|vision_end|>"  # an odd last frame counts twice
        "Why?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_timestamp_of_a_unit_without_kept_tokens_goes_with_it(fs):
    some = prompt(fs, count=6)
    text = shown(fs, some, keep(fs.encode(some), [1, 13, 17]))
    assert text == (
        "<|im_start|>user\n<7.8 seconds><|vision_start|>.<|vision_end|><9.8 seconds><|vision_start|>..<|vision_end|>"
        "Why?<|im_end|>\n<|im_start|>assistant\n"
    )


@torch.inference_mode()
def test_dense_equals_the_models_own_forward_from_pixels(fs):
    some = prompt(fs)
    arguments = tensors(fs, some)
    kinds = (arguments["input_ids"] == fs.lm.visual_id).int() * 2
    original = fs.lm.model(**arguments, mm_token_type_ids=kinds, attention_mask=torch.ones_like(arguments["input_ids"]))
    torch.testing.assert_close(fs.next_token_logits(some), original.logits[0, -1], atol=1e-5, rtol=1e-4)
    layout = fs.encode(some).layout(some.query_ids, fs.lm.visual_id)
    grid = arguments["video_grid_thw"]
    expected = fs.lm.model.model.get_rope_index(arguments["input_ids"], mm_token_type_ids=kinds, video_grid_thw=grid)[0]
    assert torch.equal(fs.lm.position_ids(layout, some.clip.grid, 1.0), expected[:, 0])


def test_a_prepared_prompt_is_the_same_prompt(fs):
    some = prompt(fs)
    prefix_cache = fs.prompt_from_tensors(**tensors(fs, some))
    assert torch.equal(prefix_cache.prefix_ids, some.prefix_ids) and torch.equal(prefix_cache.query_ids, some.query_ids)
    selection = fs.select(prefix_cache)
    assert_near(selection.scores, fs.select(some).scores)
    assert_near(fs.next_token_logits(prefix_cache, selection), fs.next_token_logits(some, selection))
    (alone,) = fs.prompt_from_tensors(**tensors(fs, prompt(fs, count=2))).clip.delimiters
    assert len(alone[0]) == 0 and len(alone[1]) == 1, (
        "a single timestamp cannot be told from the prefix, and always stays"
    )


def test_a_prompt_that_does_not_fit_its_grid_is_refused(fs):
    arguments = tensors(fs, prompt(fs))
    with pytest.raises(ValueError, match=r"runs of \[6, 6, 6, 6, 6, 6, 6\] .* needs text and then 6 runs of 6"):
        fs.prompt_from_tensors(**{**arguments, "video_grid_thw": torch.tensor([[6, 4, 6]])})


def test_deepstack_features_are_cut_to_the_kept_tokens(fs):
    """Only what belongs to kept tokens may matter: changing another token's changes nothing, a kept one's does."""
    some = prompt(fs)
    encoded, kept = fs.encode(some), [2, 9, 30]
    assert encoded.features.shape == (42, 3 * 64), "the embedding, and two layers' additions"

    def logits(changed=None):
        features = encoded.features.clone()
        if changed is not None:
            features[changed, 64:] += 1.0
        other = dataclasses.replace(encoded, features=features)
        return fs.lm.next_token_logits(fs.lm.assemble(other, some.query_ids, keep(encoded, kept), "original"))

    assert torch.equal(logits(), logits(changed=3))
    for token in kept:
        assert not torch.allclose(logits(), logits(changed=token), atol=1e-3)


def test_deepstack_features_matter_to_the_scores(fs):
    encoded, query = fs.encode(prompt(fs)), fs.lm.prompter.query_ids("Why?")
    without = dataclasses.replace(encoded, features=encoded.features[:, :64])
    assert not torch.allclose(fs.scorer.score(encoded, query), fs.scorer.score(without, query), atol=1e-4)


def test_sets_whose_timestamps_differ_in_length(fs):
    """9.8 and 10.8 are of different length: such sets cannot be stacked, and score as they do one by one."""
    some = prompt(fs, count=18)
    encoded = fs.encode(some)
    lengths = {len(before) for before, _ in some.clip.delimiters}
    assert len(lengths) == 2, "canary: the prompt has timestamps of both lengths"
    one_by_one, sets = ReferenceLayerScorer(fs.lm, 2, "max", tokens_per_batch=1), fs.frame_sets(encoded)
    assert len(sets) > 1
    (expected,), (result,) = (s.score_many(encoded, [some.query_ids], sets) for s in (one_by_one, fs.scorer))
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-5)


def test_unknown_times_are_as_sampled(fs):
    prompter = fs.lm.prompter
    delimiters = prompter.clip(prompter.resize(tiny.frames(4))).delimiters
    assert [prompter.tokenizer.decode(before.tolist())[:13] for before, _ in delimiters] == [
        "<0.2 seconds>",
        "<1.2 seconds>",
    ]
