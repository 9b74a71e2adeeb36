"""Equalities that the method must keep, each with a canary."""

import dataclasses

import pytest
import torch
from PIL import Image

from flexselect import FlexSelect, Selection
from flexselect.attention.layers import is_hybrid
from flexselect.scoring.controls import RandomScorer, UniformScorer
from flexselect.scoring.reference_layer import ReferenceLayerScorer
from tests import tiny


def keep(tokens, total):
    return Selection(torch.zeros(total), torch.tensor(tokens), [torch.arange(total)])


@torch.inference_mode()
def test_keeping_all_is_plain_generation(load):
    """Against a greedy loop over the bare decoder, without a cache and without `generate`."""
    fs = load()
    prompt = tiny.prompt(fs)
    encoded = fs.encode(prompt)
    everything = keep(list(range(encoded.num_tokens)), encoded.num_tokens)
    generated = fs.generate(prompt, everything, max_new_tokens=6)
    assert torch.equal(generated, fs.generate(prompt, max_new_tokens=6))
    inputs = fs.lm.assemble(encoded, prompt.query_ids, None, "original")
    embeddings, where, more, tokens = inputs["inputs_embeds"], inputs["position_ids"], inputs["deepstack"], []
    for _ in range(len(generated)):
        ones = torch.ones(embeddings.shape[:2], dtype=torch.long)
        hidden = fs.lm.decoder(
            inputs_embeds=embeddings, position_ids=where, attention_mask=ones, use_cache=False, **more
        )
        tokens.append(int(fs.lm.model.lm_head(hidden.last_hidden_state[0, -1]).argmax()))
        embeddings = torch.cat([embeddings, fs.lm.embed(torch.tensor(tokens[-1:]))[None]], dim=1)
        where = torch.cat([where, where[..., -1:] + 1], dim=-1)
        if more:
            more = {**more, "visual_pos_masks": torch.nn.functional.pad(more["visual_pos_masks"], (0, 1))}
    assert generated.tolist() == tokens
    other = fs.next_token_logits(tiny.prompt(fs, seed=1))
    assert not torch.allclose(other, fs.next_token_logits(prompt), atol=1e-2), "canary: the frames must matter"


@torch.inference_mode()
def test_pruned_logits_equal_dense_ones_with_the_dropped_columns_masked(load):
    fs = load(positions="original")
    if is_hybrid(fs.lm.decoder.config):
        pytest.skip("a token cannot be masked in a recurrence: see tests/flexselect/test_qwen3_5.py")
    prompt = tiny.prompt(fs)
    encoded = fs.encode(prompt)
    kept = [0, 3, 4, 11, 30, 31, 40]
    pruned = fs.next_token_logits(prompt, keep(kept, encoded.num_tokens))
    inputs = fs.lm.assemble(encoded, prompt.query_ids, None, "original")
    layout, size = encoded.layout(prompt.query_ids, fs.lm.visual_id), inputs["inputs_embeds"].shape[1]
    places = layout.visual.nonzero().flatten().tolist()
    units = {token // encoded.tokens_per_unit for token in kept}
    stays = [i for i in range(size) if not layout.visual[i] and int(layout.unit[i]) in {-1, *units}]
    stays += [places[token] for token in kept]
    allowed = torch.ones(size, size, dtype=torch.bool).tril()
    allowed[:, sorted(set(range(size)) - set(stays))] = False
    allowed |= torch.eye(size, dtype=torch.bool)  # a dropped row still needs something to look at
    mask = torch.zeros(size, size).masked_fill(~allowed, float("-inf"))[None, None]
    masks = {"full_attention": mask} if "qwen2" in fs.lm.decoder.config.model_type else mask
    hidden = fs.lm.decoder(
        inputs_embeds=inputs["inputs_embeds"],
        position_ids=inputs["position_ids"],
        attention_mask=masks,
        **inputs["deepstack"],
    ).last_hidden_state
    torch.testing.assert_close(pruned, fs.lm.model.lm_head(hidden[0, -1]), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(pruned, fs.next_token_logits(prompt), atol=1e-2), "canary: dropping must change something"


def test_one_set_is_no_partition(load):
    prompt = tiny.prompt(load(), count=6)
    units = prompt.clip.num_units
    fs = load(selector="self", units_per_set=units)
    one = fs.select(prompt)
    assert len(one.sets) == 1
    torch.testing.assert_close(one.scores, load(selector="self", units_per_set=1000).select(prompt).scores)
    two = load(selector="self", units_per_set=units - 1).select(prompt).scores
    assert not torch.allclose(one.scores, two, atol=1e-3), "canary: sets must matter"


def test_sets_batched_equal_sets_one_by_one(load):
    fs = load(selector="self", units_per_set=3, budget=9)
    prompt = tiny.prompt(fs, count=16)  # 16 frames in 6 sets of 3 and 2, or 8 units in 3
    batched = fs.select(prompt)
    tokens = prompt.clip.grid[1] * prompt.clip.grid[2]
    assert {len(each) for each in batched.sets} == {3 * tokens, 2 * tokens}
    fs.scorer = ReferenceLayerScorer(fs.lm, 2, "max", tokens_per_batch=1)
    torch.testing.assert_close(batched.scores, fs.select(prompt).scores, atol=1e-6, rtol=1e-5)
    assert len(batched.scores.unique()) > 40, "canary: scores must differ"


def test_encoding_in_chunks_equals_the_whole(load):
    fs = load()
    prompt = tiny.prompt(fs, count=10)
    whole = fs.encode(prompt).features
    fs.lm.units_per_step = 2
    torch.testing.assert_close(fs.encode(prompt).features, whole)
    assert whole.std() > 0.01, "canary"


def test_second_question_on_a_session_equals_from_scratch(load):
    fs = load(selector="self")
    frames = tiny.frames()
    session = fs.open(frames)
    session.ask("Which shape is red?")
    second, fresh = (s.ask("What colour is the ring?", max_new_tokens=6) for s in (session, fs.open(frames)))
    assert second.text == fresh.text
    assert torch.equal(second.selection.kept, fresh.selection.kept)
    assert torch.equal(second.selection.scores, fresh.selection.scores)
    first = session.ask("Which shape is red?")
    assert not torch.equal(first.selection.scores, second.selection.scores), "canary: the question must matter"


def test_a_session_selects_without_answering(load):
    session = load(selector="self").open(tiny.frames(4))
    chosen, answer = session.select("Which shape is red?"), session.ask("Which shape is red?", max_new_tokens=1)
    assert torch.equal(chosen.kept, answer.selection.kept) and torch.equal(chosen.scores, answer.selection.scores)


def test_answer_reports_tokens_and_stages(load):
    answer = load(selector="self", budget=5).open(tiny.frames()).ask("What colour is the ring?", max_new_tokens=3)
    assert answer.num_kept_tokens == 5 == len(answer.selection.kept)
    assert answer.num_visual_tokens == len(answer.selection.scores) > 30
    assert set(answer.timings) >= {"decode", "encode", "score", "prefill"}
    assert all(seconds >= 0 for seconds in answer.timings.values())


@pytest.mark.parametrize("selector", ["self", "uniform", "random"])
@pytest.mark.parametrize("units_per_set", [2, 64])
def test_selection_contract(load, selector, units_per_set):
    fs = load(selector=selector, budget=20, units_per_set=units_per_set)
    prompt = tiny.prompt(fs)
    selection = fs.select(prompt)
    assert selection.scores.shape == (fs.encode(prompt).num_tokens,) and len(selection.kept) == 20
    assert bool((selection.kept.diff() > 0).all())
    assert torch.equal(selection.kept, fs.select(prompt).kept), "the same question gives the same selection"
    text = fs.lm.assemble(fs.encode(prompt), prompt.query_ids, selection, "original")["input_ids"][0]
    assert torch.equal(text[: len(prompt.prefix_ids)], prompt.prefix_ids)
    assert torch.equal(text[-len(prompt.query_ids) :], prompt.query_ids), "text is never dropped"


def test_uniform_keeps_evenly_spread_tokens(load):
    encoded = dataclasses.replace(load().encode(tiny.prompt(load())), features=torch.zeros(2000, 1), grid=(2000, 1, 1))
    gaps = UniformScorer().score(encoded, torch.tensor([0])).topk(100).indices.sort().values.diff()
    assert int(gaps.min()) >= 10 and int(gaps.max()) <= 35
    random_gaps = RandomScorer().score(encoded, torch.tensor([0])).topk(100).indices.sort().values.diff()
    assert int(random_gaps.max()) > 50, "canary: random tokens are not evenly spread"


def test_positions_original_or_compact(load):
    fs = load()
    prompt = tiny.prompt(fs)
    encoded = fs.encode(prompt)
    selection = keep([0, 30, 41], encoded.num_tokens)
    full = fs.lm.assemble(encoded, prompt.query_ids, None, "original")["position_ids"]
    original = fs.lm.assemble(encoded, prompt.query_ids, selection, "original")["position_ids"]
    compact = fs.lm.assemble(encoded, prompt.query_ids, selection, "compact")["position_ids"]
    layout = encoded.layout(prompt.query_ids, fs.lm.visual_id)
    second = layout.visual[layout.kept_mask(selection.kept)].nonzero().flatten()[1]
    assert torch.equal(original[..., second], full[..., layout.visual.nonzero().flatten()[30]])
    assert torch.equal(original[..., -1], full[..., -1])
    assert compact.flatten(0, -2)[0].tolist() == list(range(compact.shape[-1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "budget must be at least 1 visual token, got 0"),
        ({"budget": -3}, "budget must be at least 1 visual token, got -3"),
        ({"selector": "self", "reference_layer": 4}, "reference_layer must be .* for this model, got 4"),
        ({"selector": "self", "reference_layer": -1}, "reference_layer must be .* for this model, got -1"),
        ({"selector": "best"}, "selector must be one of self, uniform, random, .*, got 'best'"),
        ({"units_per_set": 0}, "units_per_set must be at least 1"),
        ({"reduction": "median"}, "unknown reduction 'median'"),
        ({"positions": "middle"}, "positions must be one of original, compact"),
        ({"budget_split": "fair"}, "budget_split must be one of exact, released, mass"),
    ],
)
def test_impossible_options_are_refused(load, options, message):
    with pytest.raises(ValueError, match=message):
        load(**options)


def test_an_empty_question_is_refused(load):
    with pytest.raises(ValueError, match="the question is empty"):
        load().open(tiny.frames()).ask("  ")


def test_dense_has_nothing_to_select(load):
    with pytest.raises(ValueError, match="no selector is loaded"):
        load().select(tiny.prompt(load()))


def test_frames_of_another_form_are_refused(load):
    for wrong in (torch.zeros(4, 3, 8, 8), torch.zeros(0, 8, 8, 3, dtype=torch.uint8), torch.zeros(8, 8, 3)):
        with pytest.raises(ValueError, match=r"frames must be uint8 \[T, h, w, 3\]"):
            load().open(wrong)
    assert load().open(tiny.frames(2).numpy()).encode().num_units in (1, 2)


def test_frames_one_after_another(load):
    """A list or a generator of arrays, tensors or PIL images, as other tools return them."""
    fs, frames = load(), tiny.frames(4)
    expected = fs.open(frames).encode().features
    images = [Image.fromarray(frame.numpy()) for frame in frames]
    grey = Image.fromarray(frames[0].numpy()).convert("L")
    for video in (list(frames), [frame.numpy() for frame in frames], images, (image for image in images)):
        assert torch.equal(fs.open(video).encode().features, expected)
    assert fs.open([grey, grey]).encode().num_units in (1, 2)
    for wrong, why in (
        ([frames[0], "talk.mp4"], "frame 1 is str: a frame is uint8"),
        ([frames[0], frames[0][:5]], "frames must have one size: frame 0 is torch.uint8 .*, frame 1 is torch.uint8"),
        ([frames[0].float()] * 2, "frames must be uint8"),
        ([], "there are no frames"),
        ({"video": frames}, "a video is a path, or frames; got dict"),
        (None, "a video is a path, or frames; got NoneType"),
    ):
        with pytest.raises(ValueError, match=why):
            fs.open(wrong)


@pytest.mark.parametrize("selector", [None, "self"])
def test_a_model_that_gives_nan_is_an_error_not_an_answer(load, selector):
    fs = load(selector=selector)
    fs.lm.decoder.layers[0].mlp.down_proj.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"are NaN"):
        fs.open(tiny.frames(2)).ask("Which shape is red?")


def test_bfloat16_keeps_mostly_the_same_tokens(load, model_folder):
    half = FlexSelect.from_pretrained(str(model_folder), selector="self", device="cpu")
    assert half.lm.model.dtype == torch.bfloat16
    fs = load(selector="self")
    kept, expected = (set(f.select(tiny.prompt(fs)).kept.tolist()) for f in (half, fs))
    assert len(kept & expected) >= 7 and len(kept) == len(expected) == 9


def test_a_device_map_gives_the_same_answer(load):
    fs, spread = load(selector="self"), load(selector="self", device_map="auto")
    assert torch.equal(fs.select(tiny.prompt(fs)).kept, spread.select(tiny.prompt(fs)).kept)
    assert torch.equal(
        fs.generate(tiny.prompt(fs), max_new_tokens=3), spread.generate(tiny.prompt(fs), max_new_tokens=3)
    )


def test_one_and_two_frames(load):
    for count in (1, 2):
        answer = load(selector="self").open(tiny.frames(count)).ask("Which shape is red?", max_new_tokens=2)
        assert answer.num_visual_tokens in (6, 6 * count, 210 * count, 258 * count)


@pytest.mark.parametrize("seconds", [[0.0], [1.0, 0.0], [0.0, float("nan")], [[0.0, 1.0]]])
def test_seconds_that_do_not_fit_the_frames_are_refused(load, seconds):
    with pytest.raises(ValueError, match="seconds must be 2 finite numbers in ascending order"):
        load().open(tiny.frames(2), seconds)


@pytest.mark.parametrize("number", [{"fps": 0}, {"fps": -1}, {"max_frames": 0}])
def test_impossible_sampling_is_refused(load, number):
    with pytest.raises(ValueError, match=f"{next(iter(number))} must be at least"):
        load(**number)


def test_options_are_asked_as_letters(load):
    session = load(selector="self").open(tiny.frames(2))
    listed = "Which?\nA. red\nB. blue\nAnswer with the option's letter from the given choices directly."
    asked, written = session.ask("Which?", 2, options=["red", "blue"]), session.ask(listed, 2)
    assert torch.equal(asked.selection.scores, written.selection.scores)
    assert not torch.equal(asked.selection.scores, session.ask("Which?", 2).selection.scores), "canary"


def test_frames_are_normalised_where_they_are(load):
    """On the device that the tower is on; on a device without memory, because a test has no GPU."""
    prompter = load().lm.prompter
    clip = prompter.clip(prompter.resize(tiny.frames(4, 56, 84)))
    here = prompter.pixel_values(clip, 0, clip.num_units)
    present = prompter.pixel_values(clip.to("meta"), 0, clip.num_units)
    assert present.device.type == "meta" and present.shape == here.shape and present.dtype == here.dtype


def test_a_repetition_penalty_counts_what_the_released_code_counted(load):
    """LLaVA-Video and InternVL generate from embeddings alone: only new tokens count. Qwen's prompt counts, too."""
    fs = load()
    prompt = tiny.prompt(fs, count=4)
    inputs = fs.lm.assemble(fs.encode(prompt), prompt.query_ids, None, fs.positions)
    logits, penalty = fs.lm.next_token_logits(inputs), 50.0
    seen = torch.zeros(len(logits), dtype=torch.bool)
    if fs.family.penalises_prompt:
        seen[inputs["input_ids"].unique()] = True
    penalised = torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
    fs.lm.model.generation_config.repetition_penalty = penalty
    ids = fs.generate(prompt, max_new_tokens=6)
    assert int(ids[0]) == int(penalised.argmax())
    assert len(ids.unique()) == len(ids), "new tokens count in every family"
    assert fs.family.penalises_prompt == (fs.family.name not in ("LLaVA-Video", "InternVL"))
