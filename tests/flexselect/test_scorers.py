"""Several videos and questions scored together."""

import pytest
import torch

from flexselect.attention.probe import visual_attention
from flexselect.scoring.attention_scorer import CPU_TOKENS
from flexselect.scoring.factory import MODES
from flexselect.structures.prompt import VideoPrompt
from tests import tiny

QUESTIONS = ("What colour is the circle?", "Red?", "Which of the shapes that are batch_sizes in the video is red?")


@pytest.fixture(params=MODES)
def scored(request, load):
    """A model with each scorer: being on that list is being tested."""
    return load(selector=request.param, budget=7, units_per_set=2)


def test_a_score_for_every_token_and_the_best_of_each_set_kept(scored):
    session = scored.open(tiny.frames(8))
    encoded, selection = session.encode(), session.select(QUESTIONS[0])
    scores = scored.scorer.score(encoded, scored.lm.prompter.query_ids(QUESTIONS[0]))
    assert scores.shape == (encoded.num_tokens,) and scores.dtype == torch.float32 and bool(scores.isfinite().all())
    assert len(scores.unique()) > 1, "all alike would rank nothing"
    assert len(selection.sets) > 1 and len(selection.kept) == 7
    assert bool((selection.kept.diff() > 0).all())
    again = session.select(QUESTIONS[0])
    assert torch.equal(again.kept, selection.kept), "the same question keeps the same tokens"


def test_several_questions_at_once_and_kept_states_change_nothing(scored):
    plain, kept = (scored.open(tiny.frames(8), keep=keep) for keep in ("features", "scores_kv"))
    together = [answer.selection for answer in plain.ask_all(QUESTIONS[:2], max_new_tokens=1)]
    for question, one in zip(QUESTIONS[:2], together):
        for other in (plain.select(question), kept.select(question), kept.select(question)):
            assert torch.equal(other.kept, one.kept)
            torch.testing.assert_close(other.scores, one.scores, atol=1e-6, rtol=1e-4)


def test_what_others_need_to_know_of_a_scorer(scored):
    encoded = scored.open(tiny.frames(4)).encode()
    assert isinstance(scored.scorer.ranks_content, bool) and scored.scorer.shift(encoded) == 0
    assert scored.scorer.projection is None and scored.scorer.teacher is None
    states = sum(part.num_bytes for part in scored.prepare(encoded))
    assert (states > 0) == (scored.scorer.provenance is not None)
    with pytest.raises(ValueError, match="selector_input_ids are for a trained selector"):
        scored.scorer.split(torch.tensor([1, 2]))


@pytest.mark.parametrize("reduction", ["max", "mean"])
def test_together_is_one_by_one(load, reduction):
    """Questions of different lengths about clips of different lengths, in sets."""
    fs = load(selector="self", reduction=reduction, units_per_set=2)
    prompts = [tiny.prompt(fs, question, count, seed=count) for question, count in zip(QUESTIONS, (4, 6, 4))]
    videos, queries = [fs.encode(prompt) for prompt in prompts], [prompt.query_ids for prompt in prompts]
    assert len({len(query) for query in queries}) == 3
    with torch.inference_mode():
        together = fs.scorer.scores(videos, queries, [fs.frame_sets(video) for video in videos])
    for video, query, scores in zip(videos, queries, together):
        (alone,) = fs.scorer.score_many(video, [query], fs.frame_sets(video))
        torch.testing.assert_close(scores, alone, atol=1e-6, rtol=1e-4)
        assert float(alone.std()) > 0, "canary"
    (other,) = fs.scorer.score_many(videos[0], [queries[1]], fs.frame_sets(videos[0]))
    assert not torch.allclose(other, together[0], rtol=1e-3), "canary: the query matters"


def test_a_batch_has_a_limit(load):
    fs = load(selector="self", units_per_set=2)
    prompt = tiny.prompt(fs, count=8)
    video, batch_sizes = fs.encode(prompt), []
    sets = fs.frame_sets(video)
    (whole,) = fs.scorer.score_many(video, [prompt.query_ids], sets)
    fs.scorer.tokens_per_batch = 1
    run = fs.scorer._run
    fs.scorer._run = lambda features, *rest: batch_sizes.append(len(features)) or run(features, *rest)
    (result,) = fs.scorer.score_many(video, [prompt.query_ids], sets)
    torch.testing.assert_close(result, whole, atol=1e-6, rtol=1e-4)
    assert set(batch_sizes) == {1} and len(batch_sizes) > 1


def test_what_runs_together_depends_on_the_machine(load, monkeypatch):
    """On a CPU one published set; on a GPU what a quarter of its free memory holds; what is kept together is fixed."""
    fs = load(selector="self", units_per_set=2)
    scorer = fs.scorer
    assert scorer._tokens_together() == CPU_TOKENS < 64 * 210
    assert load(selector="self", tokens_per_batch=77).scorer._tokens_together() == 77
    prompt = tiny.prompt(fs, count=8)
    video, states, sizes = fs.encode(prompt), [], []
    sets = fs.frame_sets(video)
    stack = scorer._stack
    monkeypatch.setattr(scorer, "_stack", lambda videos, batch: sizes.append(len(batch)) or stack(videos, batch))
    for tokens in (None, 1):
        scorer.tokens_per_batch = tokens
        states.append(list(scorer.prepare(video, sets)))
        assert [len(part.sets) for part in states[-1]] == [len(part.sets) for part in states[0]]
    assert sizes.count(1) >= len(sets) and max(sizes) > 1, "canary: they ran one by one the second time"
    for one, other in zip(*states):
        for (keys, values), (other_keys, other_values) in zip(one.past, other.past):
            torch.testing.assert_close(keys, other_keys, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(values, other_values, atol=1e-5, rtol=1e-4)
    assert scorer.provenance["tokens_per_batch"] == 32768, "as in the session files of earlier versions"
    scorer.tokens_per_batch = None
    monkeypatch.setattr(type(scorer), "device", torch.device("cuda"))
    for free, tokens in ((10**12, 32768), (10**9, None), (0, 0)):
        monkeypatch.setattr("flexselect.scoring.attention_scorer.free_bytes", lambda device, free=free: free)
        together = scorer._tokens_together()
        most = 10**9 / 4 / 4 / scorer.decoder.config.hidden_size  # a quarter, float32
        assert (0 < together <= most) if tokens is None else together == tokens


@pytest.mark.parametrize("reduction", ["max", "mean"])
def test_padding_at_the_end_of_a_query_changes_nothing(reduction):
    q, k = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 25, 8)
    visual, counts = slice(3, 20), torch.tensor([5, 3])
    both = visual_attention(q, k, visual, 0.35, reduction, row_counts=counts)
    first = visual_attention(q[:1], k[:1], visual, 0.35, reduction)
    second = visual_attention(q[1:, :, :3], k[1:, :, :23], visual, 0.35, reduction)
    torch.testing.assert_close(both, torch.cat([first, second]))
    assert not torch.allclose(both, visual_attention(q, k, visual, 0.35, reduction)), "canary"


def test_scores_are_float32_under_mixed_precision(load):
    fs = load(selector="self")
    prompt = tiny.prompt(fs, count=4)
    assert isinstance(prompt, VideoPrompt)
    q, k = torch.randn(1, 4, 5, 8), torch.randn(1, 2, 25, 8)
    with torch.autocast("cpu", torch.bfloat16):
        rough = visual_attention(q, k, slice(3, 20), 0.35)
        scores = fs.scorer.score(fs.encode(prompt), prompt.query_ids)
    assert not torch.equal(rough, visual_attention(q, k, slice(3, 20), 0.35)), "canary: left alone, it is rounded"
    assert scores.dtype == torch.float32
    assert not torch.equal(scores, scores.bfloat16().float())
