"""What a session keeps between questions: exact, and less work."""

import pytest
import torch

from flexselect import FlexSelect, LiteSelector
from flexselect.families import family_of
from flexselect.selector import selector_config
from tests import tiny

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
    frames, seconds = tiny.frames(22, 56, 84), range(22)
    session = fs.open(frames, seconds, keep="scores_kv")
    assert session.num_bytes["scores_kv"] == 0
    for question in QUESTIONS:
        kept, fresh = (s.ask(question, max_new_tokens=4) for s in (session, fs.open(frames, seconds)))
        expected = fresh.selection.scores
        assert float((kept.selection.scores - expected).abs().max()) < 1e-5 * float(expected.max())
        assert torch.equal(kept.selection.kept, fresh.selection.kept) and kept.text == fresh.text
    assert session.num_bytes["scores_kv"] > 0 and session.num_bytes["features"] > 0
    return session


@pytest.mark.parametrize("reduction", ["max", "mean"])
def test_later_questions_equal_from_scratch(load, reduction):
    same_as_from_scratch(load(selector="self", budget=6, units_per_set=4, reduction=reduction))


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_video", "internvl"])
def test_later_questions_equal_from_scratch_with_a_selector(lite, name):
    same_as_from_scratch(lite(name, budget=6, units_per_set=4))


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
    fs.open(tiny.frames(8, 56, 84), range(8)).select(QUESTIONS[1])  # canary: the whole prompt
    hook.remove()
    assert few and max(few) <= rows + 4 < max(lengths)  # four: what may close the last unit


def test_states_may_lie_elsewhere_and_keep_must_be_known(load):
    fs = load(selector="self", budget=6)
    frames = tiny.frames(4)
    here, there = fs.open(frames, keep="scores_kv"), fs.open(frames, keep="scores_kv", keep_on="cpu")
    assert torch.equal(here.select(QUESTIONS[0]).scores, there.select(QUESTIONS[0]).scores)
    assert here.num_bytes == there.num_bytes
    with pytest.raises(ValueError, match="keep must be one of features, scores_kv, got 'all'"):
        fs.open(frames, keep="all")
    dense = load(selector=None).open(frames, keep="scores_kv")
    assert dense.ask(QUESTIONS[0], max_new_tokens=1).selection is None and dense.num_bytes["scores_kv"] == 0


def test_a_saved_session_answers_without_the_video(load, tmp_path):
    fs = load(selector="self", budget=6)
    session = fs.open(tiny.frames(8, 56, 84), range(8))
    session.save(tmp_path / "talk.session")
    again = fs.load_session(tmp_path / "talk.session").keeping("scores_kv")
    for question in QUESTIONS:
        one, other = (s.ask(question, max_new_tokens=4) for s in (session, again))
        assert one.text == other.text and torch.equal(one.selection.kept, other.selection.kept)
    assert again.clip is None and again.encoded.sampling == session.encoded.sampling
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
