"""What a session keeps between questions: exact, and less work."""

import gc
import re
import time

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from flexselect import FlexSelect, LiteSelector
from flexselect.engine.batching import left_padded
from flexselect.families import family_of
from flexselect.loading.placement import free_bytes
from flexselect.selectors.lite_selector import selector_config
from flexselect.structures.frames import FrameStream
from flexselect.structures.prompt import VideoPrompt
from tests import tiny
from tests.fixtures import in_two_families
from tests.near import assert_near

QUESTIONS = ("Which shape is red?", "Why is the ring at the end of this long video not blue?", "Which shape is red?")
SIZES = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1}


@pytest.fixture(scope="module")
def lite(tmp_path_factory):
    """`lite(family)`: a model with a new selector."""

    def lite(name, **options):
        model = tiny.BUILDERS[name](tmp_path_factory.mktemp("model"))
        selector = LiteSelector(selector_config(family_of(str(model)), SIZES))
        tiny.randomise(selector)
        folder = tmp_path_factory.mktemp("selector")
        selector.save_pretrained(folder)
        return FlexSelect.from_pretrained(str(model), selector=str(folder), dtype="float32", device="cpu", **options)

    return lite


def same_as_from_scratch(fs):
    """Sets of two lengths; questions of two lengths; asked again after another."""
    frames, seconds = tiny.frames(5, 56, 84), range(5)
    session = fs.open(frames, seconds, keep="scores_kv")
    assert session.num_bytes["scores_kv"] == 0
    for question in QUESTIONS:
        kept, fresh = (s.ask(question, max_new_tokens=4) for s in (session, fs.open(frames, seconds, keep="features")))
        expected = fresh.selection.scores
        assert float((kept.selection.scores - expected).abs().max()) < 1e-5 * float(expected.max())
        assert torch.equal(kept.selection.kept, fresh.selection.kept) and kept.text == fresh.text
    assert session.num_bytes["scores_kv"] > 0 and session.num_bytes["features"] > 0
    return session


@pytest.mark.parametrize("reduction", ["max", "mean"])
def test_later_questions_equal_from_scratch(load, reduction):
    same_as_from_scratch(load(selector="self", budget=6, units_per_set=2, reduction=reduction))


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_video", "internvl"])
def test_later_questions_equal_from_scratch_with_a_selector(lite, name):
    same_as_from_scratch(lite(name, budget=6, units_per_set=2))


def test_only_the_rows_of_the_question_run(load):
    """From the second question on the decoder sees nothing of the video until it answers."""
    fs = load(selector="self", budget=6)
    session = fs.open(tiny.frames(8, 56, 84), range(8), keep="scores_kv")
    session.select(QUESTIONS[0])
    lengths = []
    layer = fs.lm.decoder.layers[0]
    hook = layer.register_forward_pre_hook(
        lambda _, args, kwargs: lengths.append((args[0] if args else kwargs["hidden_states"]).shape[1]),
        with_kwargs=True,
    )
    session.select(QUESTIONS[1])
    few, rows = list(lengths), len(fs.lm.prompter.query_ids(QUESTIONS[1]))
    fs.open(tiny.frames(8, 56, 84), range(8), keep="features").select(QUESTIONS[1])  # canary: the whole prompt
    hook.remove()
    closing = [len(after) for _, after in session.encode().delimiters][-1:] or [4]  # text that closes the last unit
    assert few and max(few) <= rows + closing[0] < max(lengths)


def test_states_may_lie_elsewhere_and_keep_must_be_known(load):
    fs = load(selector="self", budget=6)
    frames = tiny.frames(4)
    here, present = fs.open(frames, keep="scores_kv"), fs.open(frames, keep="scores_kv", keep_on="cpu")
    assert_near(here.select(QUESTIONS[0]).scores, present.select(QUESTIONS[0]).scores)
    assert here.num_bytes == present.num_bytes
    with pytest.raises(ValueError, match="keep must be one of auto, nothing, features, scores_kv, got 'all'"):
        fs.open(frames, keep="all")
    dense = load(selector=None).open(frames, keep="scores_kv")
    assert dense.ask(QUESTIONS[0], max_new_tokens=1).selection is None and dense.num_bytes["scores_kv"] == 0


def test_a_stream_is_encoded_as_the_whole_clip(load):
    """In steps that fit neither the pieces it comes in nor its length; the last unit may be half."""
    fs, seconds = load(selector="self", budget=6), torch.arange(13, dtype=torch.float64) / 3
    prompter = fs.lm.prompter
    frames = prompter.resize(tiny.frames(13, 56, 84))
    whole = fs.encode(VideoPrompt(prompter.clip(frames, seconds), prompter.prefix_ids, torch.empty(0).long()))
    fs.lm.units_per_step = 2
    session = fs.open_source(FrameStream(13, seconds, lambda: iter(frames.split(5))))
    result = session.encode()
    torch.testing.assert_close(result.features, whole.features, atol=1e-6, rtol=1e-6)
    for name in ("grid", "seconds_per_unit", "sampling"):
        assert getattr(result, name) == getattr(whole, name)
    assert len(result.delimiters) == len(whole.delimiters)
    for actual, expected in zip(result.delimiters, whole.delimiters):
        assert torch.equal(actual[0], expected[0]) and torch.equal(actual[1], expected[1])
    assert torch.equal(session.source.all_frames(), prompter.resize(frames))


@pytest.mark.parametrize("keep", ["nothing", "features", "scores_kv"])
@pytest.mark.parametrize("keep_on", [None, "cpu", "disk"])
@in_two_families
def test_what_is_kept_and_where_changes_no_answer(load, keep, keep_on):
    fs = load(selector="self", budget=6, units_per_set=2)
    frames, seconds = tiny.frames(5, 56, 84), range(5)
    session, plain = (
        fs.open(frames, seconds, **kept) for kept in ({"keep": keep, "keep_on": keep_on}, {"keep": "features"})
    )
    for question in QUESTIONS:
        one, other = (s.ask(question, max_new_tokens=3) for s in (session, plain))
        assert one.text == other.text and torch.equal(one.selection.kept, other.selection.kept)
        assert set(one.timings) == {"decode", "encode", "score", "prefill", "generate"}
    sizes = session.num_bytes
    assert (sizes["features"] > 0) == (keep != "nothing") and (sizes["scores_kv"] > 0) == (keep == "scores_kv")
    assert session.sampling == plain.sampling and ("disk" in repr(session)) == (keep_on == "disk")


@pytest.mark.parametrize("keep_on", [None, "cpu", "disk"])
@in_two_families
def test_states_are_kept_by_themselves_if_they_fit(load, monkeypatch, keep_on, tmp_path):
    """Into a quarter of the free memory; their size is computed before they are."""
    fs = load(selector="self", budget=6, units_per_set=2)
    frames, seconds = tiny.frames(5, 56, 84), range(5)
    always = fs.open(frames, seconds, keep="scores_kv")
    expected = always.select(QUESTIONS[0]).scores
    needed = fs.prefix_cache_bytes(always.encode())
    assert needed == always.num_bytes["scores_kv"] > 0
    for free, kept in ((4 * needed, needed), (4 * needed - 1, 0)):
        monkeypatch.setattr("flexselect.session.free_bytes", lambda place, free=free: free)
        session = fs.open(frames, seconds, keep_on=keep_on)
        assert_near(session.select(QUESTIONS[0]).scores, expected)
        assert session.num_bytes["scores_kv"] == kept and "keep='auto'" in repr(session)
    session.save(tmp_path / "talk.session")
    assert fs.load_session(tmp_path / "talk.session").num_bytes["scores_kv"] == 0, "only if asked for"
    monkeypatch.undo()
    assert free_bytes("cpu") > 1e8 and free_bytes("disk") > 1e6
    assert load(selector="uniform").open(frames, seconds).num_bytes["scores_kv"] == 0


def test_without_room_after_all_features_are_kept(load, monkeypatch):
    """The estimate was of the kept data alone. If the user asked for it, the error stays."""
    fs = load(selector="self", budget=6)
    expected = fs.open(tiny.frames(5, 56, 84), range(5), keep="features").select(QUESTIONS[0])

    def full(*arguments):
        raise torch.OutOfMemoryError("no room")
        yield

    monkeypatch.setattr(fs, "prepare", full)
    session = fs.open(tiny.frames(5, 56, 84), range(5))
    assert torch.equal(session.select(QUESTIONS[0]).kept, expected.kept) and session.keep == "features"
    with pytest.raises(torch.OutOfMemoryError):
        fs.open(tiny.frames(5, 56, 84), range(5), keep="scores_kv").select(QUESTIONS[0])


@pytest.mark.parametrize("keep", ["auto", "scores_kv"])
def test_the_first_question_counts_the_seconds_of_what_is_kept(load, monkeypatch, keep):
    fs = load(selector="self", budget=6)
    prepare, calls = fs.scorer.prepare, []

    def slow(*arguments):
        calls.append(arguments)
        time.sleep(0.3)
        yield from prepare(*arguments)

    monkeypatch.setattr(fs.scorer, "prepare", slow)
    session = fs.open(tiny.frames(5, 56, 84), range(5), keep=keep)
    first, _ = (session.ask(QUESTIONS[0], max_new_tokens=1).timings["score"] for _ in range(2))
    assert first > 0.3 and len(calls) == 1, "a later question computes none of it"


@in_two_families
def test_what_lies_on_disk_goes_with_the_session(load, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fs = load(selector="self", budget=6)
    session = fs.open(tiny.frames(8, 56, 84), keep="scores_kv", keep_on="disk")
    session.ask(QUESTIONS[0], max_new_tokens=1)
    files = sorted(file.name for file in tmp_path.rglob("*.safetensors"))
    assert files[0] == "features.safetensors" and "states-0.safetensors" in files
    del session
    gc.collect()
    assert not list(tmp_path.rglob("*.safetensors"))


def test_states_are_saved_and_taken_up_by_the_same_scorer_alone(load, tmp_path):
    fs = load(selector="self", budget=6, units_per_set=2)
    session = fs.open(tiny.frames(5, 56, 84), range(5), keep="scores_kv")
    session.save(tmp_path / "talk.session")
    again = fs.load_session(tmp_path / "talk.session")
    assert again.num_bytes == session.num_bytes and again.num_bytes["scores_kv"] > 0
    other = load(selector="self", budget=6, units_per_set=3).load_session(tmp_path / "talk.session", keep_on="cpu")
    assert other.num_bytes["scores_kv"] == 0 and other.num_bytes["features"] > 0
    monkeyed = []
    fs.scorer.prepare = lambda *arguments: monkeyed.append(arguments)
    assert_near(again.select(QUESTIONS[1]).scores, session.select(QUESTIONS[1]).scores)
    assert not monkeyed
    with pytest.raises(ValueError, match="needs the video"):
        again.keeping("nothing")


def test_a_session_of_another_selector_is_refused(lite, tmp_path):
    """What the first selector saw of the video means nothing to the second."""
    one, other = (lite("qwen2_5_vl", budget=6) for _ in range(2))
    selector = {name: 2 * weight for name, weight in other.scorer.selector.state_dict().items()}
    other.scorer.selector.load_state_dict(selector)
    other.scorer.selector.save_pretrained(tmp_path / "other")
    other.scorer.selector.config._name_or_path = other.scorer.selector.name_or_path = str(tmp_path / "other")
    for keep in ("features", "scores_kv"):
        one.open(tiny.frames(8, 56, 84), keep=keep).save(tmp_path / "talk.session")
        original = one.load_session(tmp_path / "talk.session")
        assert original.num_bytes["scores_kv"] == 0 if keep == "features" else original.num_bytes["scores_kv"] > 0
        other.family.path = one.family.path  # the same VideoLLM
        with pytest.raises(ValueError, match=r"saved by another model \(selector"):
            other.load_session(tmp_path / "talk.session")


@pytest.mark.parametrize("place", ["dsk", "meta", "cuda:0", 7])
def test_a_place_that_is_none_is_refused_before_anything_is_decoded(load, place, tmp_path):
    fs = load(selector="self", budget=6)
    stream = FrameStream(4, None, lambda: pytest.fail("decoded"))
    for keep in ("nothing", "features", "scores_kv"):
        with pytest.raises(ValueError, match="keep_on"):
            fs.open_source(stream).keeping(keep, place)
    with pytest.raises(ValueError, match="keep_on"):
        fs.load_session(tmp_path / "talk.session", place)


def test_what_is_no_longer_kept_on_disk_is_deleted(load, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fs = load(selector="self", budget=6)
    session = fs.open(tiny.frames(8, 56, 84), keep="scores_kv", keep_on="disk")
    expected = session.select(QUESTIONS[0]).scores
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    for keep in ("features", "nothing"):
        assert torch.equal(session.keeping(keep).select(QUESTIONS[0]).scores.topk(3).indices, expected.topk(3).indices)
        assert not list(tmp_path.rglob("*.safetensors"))


def test_what_cannot_be_written_or_asked_is_said(load, tmp_path, monkeypatch):
    fs = load(selector="self", budget=6)
    session = fs.open(tiny.frames(4, 56, 84))
    with pytest.raises(OSError, match=r"none/a.session cannot be written: there is no folder"):
        session.save(tmp_path / "none" / "a.session")
    with pytest.raises(OSError, match="cannot be written: it is a folder"):
        session.save(tmp_path)
    with pytest.raises(ValueError, match="is a folder, not a session file"):
        fs.load_session(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="holds no session"):
        fs.load_session(tmp_path / "other.safetensors")

    def full(*_):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("flexselect.storage.encoded_file.save_file", full)
    with pytest.raises(
        OSError, match=r"a.session cannot be written \(\d+ MB\): No space left on device; free some room"
    ):
        session.save(tmp_path / "a.session")
    for wrong in (lambda: session.select(" "), lambda: session.ask_all(["Why?", ""]), lambda: session.ask("")):
        with pytest.raises(ValueError, match="the question is empty"):
            wrong()
    with pytest.raises(ValueError, match="takes a list of questions"):
        session.ask_all("Why?")
    with pytest.raises(ValueError, match="a session of another model"):
        load(selector="self", budget=5).ask_all([(session, "Why?")])
    with pytest.raises(ValueError, match="a video file already has timestamps"):
        fs.open("talk.mp4", seconds=[1.0])


def test_options_may_be_asked_together(load):
    fs = load(selector="self", budget=6)
    session, options = fs.open(tiny.frames(4, 56, 84)), [("red", "blue"), ()]
    together = session.ask_all(["Which?", "Why?"], 3, options)
    alone = [session.ask(question, 3, texts) for question, texts in zip(["Which?", "Why?"], options)]
    assert [a.text for a in together] == [a.text for a in alone]


@in_two_families
def test_questions_asked_together_are_answered_as_one_by_one(load):
    """Of several lengths, about videos of several lengths, dense and selected, ended early and not."""
    for selector in (None, "self"):
        fs = load(selector=selector, budget=6, units_per_set=2)
        sessions = [fs.open(tiny.frames(n, 56, 84, seed=n), range(n)) for n in (2, 5)]
        asked = [(sessions[i % 2], question) for i, question in enumerate((*QUESTIONS, "Why?"))]
        together = fs.ask_all(asked, max_new_tokens=6)
        for (session, question), result in zip(asked, together):
            alone = session.ask(question, max_new_tokens=6)
            assert result.text == alone.text and result.num_kept_tokens == alone.num_kept_tokens
            assert set(result.timings) == set(alone.timings)
            if selector:
                assert torch.equal(result.selection.kept, alone.selection.kept)
        assert [a.text for a in sessions[0].ask_all(QUESTIONS, 6)] == [sessions[0].ask(q, 6).text for q in QUESTIONS]


def test_padding_changes_no_logits_and_no_end(load):
    fs = load(selector="self", budget=6)
    session, lm = fs.open(tiny.frames(6, 56, 84)), fs.lm
    queries = [lm.prompter.query_ids(question) for question in ("Why?", QUESTIONS[1])]
    chosen = fs.select_encoded(session.encode(), queries)
    prompts = [lm.assemble(session.encode(), *both, fs.positions) for both in zip(queries, chosen)]
    both = left_padded(prompts)
    assert (both["attention_mask"].sum(1) == torch.tensor([p["input_ids"].shape[1] for p in prompts])).all()
    expected, result = lm.next_token_logits(prompts[0]), lm.next_token_logits(both)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-4)
    unmasked = lm.next_token_logits({**both, "attention_mask": torch.ones_like(both["attention_mask"])})
    assert float((unmasked - expected).abs().max()) > 1e-3, "canary: the padding is seen without the mask"
    (first, *_), _ = (new.ids for new in lm.generate(both, 4, lambda _: None))
    endings = [new.ids for new in lm.generate(both, 4, lambda _: None, end_of_turn=int(first))]
    assert endings[0].tolist() == [int(first)] and len(endings[1]) >= 1
    alone = lm.generate(prompts[1], 4, lambda _: None, end_of_turn=int(first))[0].ids
    assert torch.equal(endings[1], alone)


def test_a_batch_keeps_to_its_token_limit(load, monkeypatch):
    fs = load(selector="self", budget=6)
    session, batches = fs.open(tiny.frames(6, 56, 84)), []
    generate = fs.lm.generate
    fs.lm.generate = lambda inputs, *more: batches.append(tuple(inputs["input_ids"].shape)) or generate(inputs, *more)
    one = session.ask("Why?", 2)
    monkeypatch.setattr("flexselect.engine.answering.TOKENS_TOGETHER", 2 * batches[0][1])
    answers = session.ask_all(["Why?"] * 5, 2)
    assert [size for size, _ in batches] == [1, 2, 2, 1] and {a.text for a in answers} == {one.text}
    assert session.ask_all([]) == []


def test_a_saved_session_answers_without_the_video(load, tmp_path):
    fs = load(selector="self", budget=6)
    session = fs.open(tiny.frames(8, 56, 84), range(8))
    session.save(tmp_path / "talk.session")
    again = fs.load_session(tmp_path / "talk.session").keeping("scores_kv")
    for question in QUESTIONS:
        one, other = (s.ask(question, max_new_tokens=4) for s in (session, again))
        assert one.text == other.text and torch.equal(one.selection.kept, other.selection.kept)
    assert again.source is None and again.encode().sampling == session.encode().sampling
    assert [file.name for file in tmp_path.iterdir() if "session" in file.name] == ["talk.session"]


def test_a_session_of_another_model_is_refused(load, checkpoint, tmp_path):
    fs = load(selector="self", budget=6)
    fs.open(tiny.frames(8, 56, 84)).save(tmp_path / "talk.session")
    other = FlexSelect.from_pretrained(str(checkpoint), dtype="bfloat16", device="cpu", selector="self")
    with pytest.raises(ValueError, match=r"talk.session was saved by another model \(.*: open the video again"):
        other.load_session(tmp_path / "talk.session")
    whole = (tmp_path / "talk.session").read_bytes()
    (tmp_path / "talk.session").write_bytes(whole[:-9])
    with pytest.raises(ValueError, match=r"talk.session holds no session, or is cut short"):
        fs.load_session(tmp_path / "talk.session")
    with pytest.raises(FileNotFoundError):
        fs.load_session(tmp_path / "none.session")


def test_a_budget_of_one_question(load):
    """The model's budget stays what it is."""
    fs = load(selector="self", budget=6)
    session = fs.open(tiny.frames(), keep="scores_kv")
    assert len(session.select("Which shape is red?", budget=3).kept) == 3
    answer = session.ask("Which shape is red?", max_new_tokens=2, budget=9)
    assert answer.num_kept_tokens == len(answer.selection.kept) == 9
    assert session.ask("Which shape is red?", max_new_tokens=2).num_kept_tokens == fs.budget == 6
    with pytest.raises(ValueError, match="budget must be at least 1 visual token, got 0"):
        session.ask("Which shape is red?", budget=0)


def test_what_is_no_choice_is_refused(load):
    session = load(selector="self", budget=4).open(tiny.frames(4, 56, 84))
    for value in ("false", 1, None):
        with pytest.raises(ValueError, match="verify must be True or False, got"):
            session.ask("What?", verify=value)
    with pytest.raises(ValueError, match="options must be at least two texts, or none, got 'red' alone"):
        session.ask("What?", options=["red"])
    assert re.fullmatch(
        r"VideoSession\(frames, \d+ units of \d+ x \d+ tokens, keep='auto': .* on its device\)", repr(session)
    )
