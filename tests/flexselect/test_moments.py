"""Moments: what stands out of a video's background, when it is, and what an answer is worth with and without it."""

import json
import math
from dataclasses import replace

import pytest
import torch

from datamodules.needles import ask_about_all, write_needle_videos
from datamodules.rows.times import absent_of, moments_of
from flexselect import FlexSelect, Selection
from flexselect.attention.layers import is_hybrid
from flexselect.engine.answering import answers
from flexselect.evaluation.absence import absence_line, auroc, summarise_absence
from flexselect.evaluation.grounding import ground, overlap, part_read, summarise_grounding
from flexselect.evidence import verification
from flexselect.evidence.moments import (
    find_moments,
    moment_of,
    player_offset,
    presence,
    prominence,
    runs_of,
    unit_edges,
)
from flexselect.evidence.subtitles import chapters, web_vtt
from flexselect.evidence.verification import Part, Trial, _first
from flexselect.scoring.frame_sets import frame_sets
from flexselect.structures.frames import VideoFacts
from flexselect.structures.prompt import EncodedVideo
from flexselect.visualize.token_map import map_tokens
from tests import tiny
from tests.datamodules.test_video_files import write_at
from tests.fixtures import in_two_families
from tests.flexselect.test_visualize import moving

DEMO, SELECTOR = "checkpoints/demo/video_llm", "checkpoints/demo/selector"


def a_video(units=64, per_unit=4, seconds=None, **facts):
    features = torch.zeros(units * per_unit, 2)
    return EncodedVideo(torch.tensor([1]), features, (units, 2, 2), seconds=seconds, about=VideoFacts(facts))


def scored(units=64, per_unit=4, sets=1, hot=(), scale=None, shift=0):
    """Scores of a quiet background, with a factor of 30 at the units `hot`."""
    noise = torch.rand(units * per_unit, generator=torch.Generator().manual_seed(0))
    scores = 1e-3 * (1 + 0.2 * noise)
    for unit in hot:
        scores[unit * per_unit + 1] *= 30
    parts = frame_sets(units, per_unit, -(-units // sets))
    for number, tokens in enumerate(parts):
        scores[tokens] *= 1 if scale is None else scale[number]
    return Selection(torch.roll(scores, shift), torch.arange(4), parts, shift)


def moments(selection, video, **how):
    return find_moments(*prominence(selection, video.num_units), video, **how)


def spans(selection, video, **how):
    return [moment.units for moment in moments(selection, video, **how)]


def test_what_stands_out_is_found_and_neighbours_are_joined():
    assert spans(scored(hot=(10, 11, 12, 40)), a_video()) in ([(10, 13), (40, 41)], [(40, 41), (10, 13)])
    assert spans(scored(), a_video()) == [], "a background has no moment"
    assert len(moments(scored(hot=range(0, 64, 8)), a_video(), most=3)) == 3


@pytest.mark.parametrize("scale", [(1, 1, 1, 1), (1, 100, 0.01, 3)])
def test_frame_sets_that_were_scored_apart_are_compared(scale):
    """Their scores are on different scales; raw scores would point to the set with the largest."""
    selection = scored(sets=4, hot=(10, 11), scale=scale)
    assert spans(selection, a_video()) == [(10, 12)]
    if scale[1] > 1:
        assert int(selection.scores.argmax()) // 4 not in (10,), "canary: the largest score lies elsewhere, or beside"


def test_shifted_scores_belong_to_earlier_tokens():
    assert spans(scored(hot=(10,), shift=2), a_video()) == [(10, 11)]


def test_shares_and_order():
    selection = scored(hot=(10, 11, 40))
    selection.scores[40 * 4 + 1] *= 5
    first, second = moments(selection, a_video())
    assert first.units == (40, 41) and 0.5 < first.share < 1 and 0.97 < first.share + second.share <= 1.0
    distance, excess = prominence(selection, 64)
    assert float(distance.median()) == pytest.approx(0, abs=0.2) and float(excess.min()) == 0.0


def test_edges_are_the_files_own_times():
    """A late start, uneven steps, pairs of frames; the last unit ends with the video, or the part that was read."""
    seconds = torch.tensor([10.0, 10.5, 11.0, 13.0, 14.0, 15.0], dtype=torch.float64)
    assert unit_edges(a_video(3, seconds=seconds)).tolist() == [10, 11, 14, 16]
    assert unit_edges(a_video(3, seconds=seconds, seconds_of="x")).tolist() == [10, 11, 14, 16]
    assert unit_edges(replace(a_video(3, seconds=seconds), about=VideoFacts({"seconds": 15.25})))[-1] == 15.25
    part = VideoFacts({"seconds": 99.0, "start": 10.0, "end": 15.5})
    assert unit_edges(replace(a_video(3, seconds=seconds), about=part))[-1] == 15.5
    assert unit_edges(a_video(6, seconds=seconds)).tolist() == [10, 10.5, 11, 13, 14, 15, 16]
    assert unit_edges(a_video(2)).tolist() == [0, 1, 2], "unknown times: unit numbers"
    moment = moments(scored(64, hot=(3,)), a_video(64, seconds=torch.arange(64.0, dtype=torch.float64) / 2))[0]
    assert (moment.start, moment.end, moment.peak) == (1.5, 2.0, 1.75)


def test_runs():
    assert runs_of([True, True, False, True]) == [(0, 2), (3, 4)] and runs_of([False]) == []


def test_every_family_has_moments_and_a_likelihood(load):
    fs = load(selector="self", budget=9)
    answer = fs.open(tiny.frames(12, 56, 84), range(12)).ask("What is there?", 3)
    assert isinstance(answer.moments, tuple) and 0 < answer.likelihood <= 1
    assert json.loads(answer.json())["answer"] == answer.text and len(repr(answer)) < 120
    assert any("cut off at max_new_tokens=3" in warning for warning in answer.warnings) or len(answer.ids) < 3
    dense = load().open(tiny.frames(4, 56, 84)).ask("What is there?", 3)
    assert dense.moments == () and dense.verification is None
    uniform = load(selector="uniform", budget=9).open(tiny.frames(4, 56, 84)).ask("What is there?", 3)
    assert uniform.moments == (), "a control points to nothing"


@pytest.mark.parametrize(("frames", "budget"), [(1, 1), (2, 10**6), (12, 3)])
def test_any_clip_can_be_verified(load, frames, budget):
    """One unit; everything kept, and so everything left out; one token."""
    answer = load(selector="self").open(tiny.frames(frames, 56, 84)).ask("What?", 3, budget=budget, verify=True)
    proof, (first, *_) = answer.verification, answer.moments
    assert 0 <= proof.support <= 1 and 0 < proof.likelihood_without <= 1 and proof.cited >= 1
    assert 0 <= first.units[0] < first.units[1] <= answer.num_visual_tokens and first.alone is not None
    assert proof.to_dict()["support"] == round(proof.support, 3)


def test_the_likelihood_is_that_of_the_answers_tokens(load):
    """As a forward pass over prompt and answer gives it."""
    fs = load(selector="self", budget=9)
    session = fs.open(tiny.frames(12, 56, 84), range(12))
    (request,) = session.requests(["What is there?"])
    (answer,) = fs.answer([request], 5)
    ((_, past),) = answers(fs.lm, [request], fs.positions, 5, keep_past=True)
    trial = Trial(fs, request, answer.ids, past)
    values, changed = trial.log_likelihoods([request.selection.kept, request.selection.kept])
    assert trial.probability(values[0]) == pytest.approx(answer.likelihood, rel=1e-3)
    assert values[0] == pytest.approx(values[1], abs=1e-4), "of the same tokens, in one batch"
    assert changed == [False, False], "from the same tokens the model answers the same"


@pytest.mark.parametrize("together", [1, 3])
@in_two_families
def test_what_was_computed_for_the_answer_is_used_again(load, together, monkeypatch):
    """Without some tokens, from the first place that changes: as if all were computed. Prompts of a batch are padded.

    Half-cached attention runs another kernel, so in float32 the sums differ by rounding.
    """
    fs = load(selector="self", budget=9)
    session = fs.open(tiny.frames(12, 56, 84), range(12))
    requests = session.requests(["What is there?", "Why?", "Is it a very large red circle?"][:together])
    for request, (answer, past) in zip(requests, answers(fs.lm, requests, fs.positions, 5, keep_past=True)):
        trial, kept = Trial(fs, request, answer.ids, past), request.selection.kept
        sets = [torch.isin(torch.arange(len(kept)), torch.tensor(left)) for left in LEFT_OUT]
        whole = [lm_logits(fs, request, kept[~dropped], answer.ids) for dropped in sets]
        expected = [logits.log_softmax(-1).gather(-1, answer.ids[:, None]).sum().item() for logits in whole]
        differs = [not torch.equal(logits.argmax(-1), answer.ids) for logits in whole]
        for apart in (0, 64):  # the most tokens that prompts of a batch differ by
            monkeypatch.setattr(verification, "TOGETHER", apart)
            values, changed = zip(*trial.without(sets))
            assert values == pytest.approx(expected, rel=1e-4, abs=1e-5) and list(changed) == differs
        values, changed = trial.log_likelihoods([kept[~dropped] for dropped in sets])
        assert values == pytest.approx(expected, rel=1e-4, abs=1e-5) and changed == differs
        if is_hybrid(fs.lm.decoder.config):
            assert past is None, "the states of a recurrent layer cannot be cut back"
            continue
        wrong = Trial(fs, request, answer.ids, [(keys + 1, values) for keys, values in past]).without(sets)
        assert wrong[2][0] != pytest.approx(expected[2], rel=1e-4, abs=1e-5), "canary: the states are used"


LEFT_OUT = [[0], [4, 5], [8], list(range(9)), []]


def lm_logits(fs, request, kept, answer_ids):
    """Logits of the answer's places from a prompt that is computed as a whole, [n, vocab]."""
    text, selection = torch.cat([request.query_ids, answer_ids]), replace(request.selection, kept=kept)
    inputs = fs.lm.assemble(request.encoded, text, selection, fs.positions)
    return fs.lm.last_logits(inputs, len(answer_ids) + 1)[0, :-1]


def test_two_things_in_a_row_are_told_apart():
    """The half that is worth as much as the whole; both halves, if each is."""
    trial = Trial.__new__(Trial)
    worth = {(0, 2): -9.0, (2, 4): -0.01, (2, 3): -0.02, (3, 4): -0.03}
    trial.try_parts = lambda parts: [Part(*part, worth[part]) for part in parts]
    assert trial.narrowed(Part(0, 4, -0.01)) == Part(2, 4, -0.01)


@pytest.fixture(scope="module")
def needles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("needles")
    annotations = write_needle_videos(folder, videos=2, patches=128, seed=21)
    return folder, [json.loads(line) for line in annotations.read_text().splitlines()]


def test_presence_by_hand():
    """Log-odds of the answer, of the first moment alone, and the logarithm of the factor above the background."""
    excess = torch.tensor([0.0, math.e - 1], dtype=torch.float64)
    odds = math.log(0.8 / 0.2)
    assert presence(0.5, excess) == pytest.approx(1.0) and presence(0.8, excess) == pytest.approx(1 + odds)
    assert presence(0.8, excess, 0.2) == pytest.approx(1.0), "a moment that does not give the answer speaks against it"
    assert math.isfinite(presence(1.0, excess, 0.0))


@pytest.mark.parametrize("selector", ["self", SELECTOR])
def test_proven_moments_of_the_demo(needles, selector):
    """Where the needle is, with three other shapes in each video; without it the answer is another."""
    folder, rows = needles
    fs = FlexSelect.from_pretrained(DEMO, selector=selector, dtype="float32", device="cpu", budget=56)
    sessions = {name: fs.open(folder / name, keep="scores_kv") for name in {row["video"] for row in rows}}
    ious, pointing, changed, by_chance, raw = [], [], [], [], []
    for row in rows:
        session, (truth,) = sessions[row["video"]], row["moments"]
        options = {"max_new_tokens": 4, "options": row["options"] or ()}
        answer = session.ask(row["question"], verify=True, **options)
        result = ground([moment.to_dict() for moment in answer.moments], [truth], (0.0, 128.0))
        ious.append(result["iou"] >= 0.5)
        pointing.append(result["pointing"])
        first = session.ask(row["question"], **options).moments[:1]
        raw.append(bool(first) and overlap((first[0].start, first[0].end), truth) >= 0.5)
        if row["answer"] == (answer.option.letter if answer.option else answer.text):
            changed.append(answer.verification.changed)
            by_chance.append(answer.verification.changed_without_others)
            assert answer.moments[0].alone > 0.5 and answer.timings["verify"] > 0
    share = [sum(values) / len(values) for values in (ious, pointing, changed, by_chance, raw)]
    assert share[0] >= 0.9 and share[1] >= 0.9 and len(changed) >= 13, share
    assert share[2] >= 0.85 and share[3] <= 0.1, share
    assert share[4] < share[0], "canary: raw scores point elsewhere more often"


def test_a_control_cannot_be_verified(load):
    session = load(selector="uniform", budget=4).open(tiny.frames(4, 56, 84))
    with pytest.raises(ValueError, match="verify needs scores that point to moments"):
        session.ask("What?", verify=True)
    with pytest.raises(ValueError, match="ask takes one question as text, got list: use ask_all"):
        session.ask(["What?", "Why?"])


def test_chance_is_that_of_the_part_that_was_read():
    moment, truth = [{"start": 70.0, "end": 71.5, "peak": 70.5}], [(70.0, 71.5)]
    facts = {"seconds": 128.0, "start": 60.0, "end": 91.5}
    assert part_read(facts) == (60.0, 91.5) and part_read({"seconds": 80.0, "end": 200.0}) == (0.0, 80.0)
    assert part_read({}) is None and part_read({"seconds": 5.0, "start": 5.0}) is None
    result = ground(moment, truth, part_read(facts))
    assert result["chance_pointing"] == result["uniform_iou"] == round(1.5 / 31.5, 4)
    assert ground(moment, truth, (0.0, 128.0))["chance_pointing"] == round(1.5 / 128, 4)


def test_grounding_by_hand():
    moments = [{"start": 2.0, "end": 4.0, "peak": 3.5}]
    result = ground(moments, [(3.0, 5.0), (9.0, 10.0)], (0.0, 10.0))
    assert result["iou"] == pytest.approx(1 / 3, abs=1e-4) and result["pointing"] is True
    assert result["chance_pointing"] == 0.3 and 0 < result["chance_iou"] < 0.4
    assert result["uniform_iou"] == 0.2, "the whole video as one moment"
    assert (
        ground([], [(3.0, 5.0)], (0.0, 10.0))["iou"] == 0.0
        and ground(moments, [(0.0, 1.0)], None)["chance_iou"] is None
    )
    other = ground(moments, [(2.0, 4.0)], (0.0, 10.0))
    rows = [{"video": "a", "grounding": result}, {"video": "b", "grounding": other}, {"video": "c"}]
    summary = summarise_grounding(rows)
    assert summary["questions"] == 2 and summary["miou"]["mean"] == pytest.approx(2 / 3, abs=1e-3)
    assert [entry["mean"] for entry in summary["r1"].values()] == [1.0, 0.5, 0.5] and summary["pointing"]["mean"] == 1.0
    assert summary["uniform_miou"] == 0.2
    assert summary["miou"]["interval"][0] < 0.5 < summary["miou"]["interval"][1] and summarise_grounding([]) is None


@pytest.mark.parametrize(
    ("value", "moments"),
    [
        ([[1, 2.5], ["1:02", "1:04"]], ((1.0, 2.5), (62.0, 64.0))),
        ([3, 4], ((3.0, 4.0),)),
        ("[[3, 4]]", ((3.0, 4.0),)),
        ("", ()),
        (None, ()),
        ([], ()),
    ],
)
def test_moments_in_annotations(value, moments):
    assert moments_of(value) == moments


@pytest.mark.parametrize("value", [[[4, 3]], "soon", [[1, 2, 3]], 7, [["a", "b"]]])
def test_wrong_moments_are_named(value):
    with pytest.raises(ValueError, match="moment"):
        moments_of(value)


def test_absent_in_annotations():
    assert [absent_of(value) for value in (True, "false", "yes", None, "", 0)] == [True, False, True, None, None, False]
    with pytest.raises(ValueError, match="absent must be true or false, got 'perhaps'"):
        absent_of("perhaps")


@pytest.mark.parametrize("verify", [False, True])
def test_what_is_not_there_is_told_by_its_presence(needles, verify):
    """Shapes and colours that are in a demo video against those that are not; error rates as `validate` prints them."""
    folder, rows = needles
    fs = FlexSelect.from_pretrained(DEMO, selector="self", dtype="float32", device="cpu", budget=56)
    results = []
    for name in sorted({row["video"] for row in rows}):
        session = fs.open(folder / name, keep="scores_kv")
        shown = [row["needle"] for row in rows if row["video"] == name]
        asked = ask_about_all((needle["shape"] for needle in shown), (needle["colour"] for needle in shown))
        answers = session.ask_all([question for question, _ in asked], 4, verify=verify)
        results += [{"presence": a.presence, "absent": not there} for a, (_, there) in zip(answers, asked)]
    summary = summarise_absence(results, threshold=0.0)
    assert summary["present"] == 16 and summary["absent"] == 12 and summary["auroc"] >= 0.9, summary
    assert summary["proposed"]["found"] >= 0.6 and summary["proposed"]["false_alarms"] <= 0.07
    assert summary["at_threshold"]["false_alarms"] == 0.0, "a presence of 0 is rare"
    assert "AUROC" in absence_line(summary) and "absent_below 0" in absence_line(summary)
    assert "(few questions: a rough guess)" in absence_line(summary)
    alone = summarise_absence([row for row in results if row["absent"]])
    assert absence_line(alone) == "not in the video: 12 rows say absent; mark others `absent: false` to measure it"


def test_absence_by_hand():
    assert auroc([3, 4], [1, 2]) == 1.0 and auroc([1, 2], [1, 2]) == 0.5
    rows = [{"presence": float(i), "absent": i < 4} for i in range(10)] + [{"presence": None, "absent": True}, {}]
    summary = summarise_absence(rows, 5.0)
    assert summary["at_threshold"] == {"threshold": 5.0, "false_alarms": pytest.approx(1 / 6, abs=1e-4), "found": 1.0}
    few = [{"presence": float(value), "absent": value < 2} for value in (1, 3, 4, 5, 6)]
    assert summarise_absence(few)["proposed"]["false_alarms"] == 0.0, "at most 5 %, of few questions too"
    assert summary["auroc"] == 1.0 and summarise_absence(rows[4:10]) is None and summarise_absence(rows)["proposed"]


def test_the_peak_is_where_the_scores_balance():
    edges = torch.arange(6, dtype=torch.float64)
    moment = moment_of((1, 3), torch.zeros(5), torch.tensor([0.0, 3.0, 1.0, 0.0, 0.0], dtype=torch.float64), edges)
    assert moment.peak == pytest.approx(1.75) and repr(moment) == "Moment(1.00 to 3.00, peak=1.75, share=1.00)"
    assert moment_of((1, 3), torch.zeros(5), torch.zeros(5).double(), edges).peak == pytest.approx(2.0)


def test_a_model_that_is_almost_sure_without_evidence():
    """It gains little from any part: the part that it gains most from comes first, not the highest score."""
    parts = [Part(0, 2, -0.012), Part(5, 7, -0.001)]
    distance = torch.tensor([9.0, 9.0, 0, 0, 0, 4.0, 4.0])
    assert _first(parts, distance, -0.012) == parts[1]
    assert _first(parts, distance, -3.0) == parts[0], "from far below they are as good as equal"


def test_without_others_there_is_nothing_to_compare_with(load):
    answer = load(selector="self").open(tiny.frames(1, 56, 84)).ask("What?", 3, budget=10**6, verify=True)
    proof = answer.verification
    assert proof.changed_without_others is None and proof.likelihood_without_others is None
    assert json.loads(answer.json())["verification"]["changed_without_others"] is None


def test_several_questions_proven_with_a_budget(load):
    session = load(selector="self", budget=9).open(tiny.frames(12, 56, 84), range(12))
    one, other = session.ask_all((text for text in ("What?", "Why?")), 3, budget=5, verify=True)
    assert one.num_kept_tokens == other.num_kept_tokens == 5 and one.verification and other.verification
    alone = session.ask("What?", 3, budget=5, verify=True)
    assert alone.text == one.text and alone.moments[0].units == one.moments[0].units


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"question": None}, "ask takes one question as text, got NoneType"),
        ({"question": b"What?"}, "ask takes one question as text, got bytes"),
        ({"question": " "}, "the question is empty"),
        ({"options": "red"}, "options must be a list of texts, got str"),
        ({"options": {"A": "red"}}, "options must be a list of texts, got dict"),
        ({"options": [1, 2]}, "options must be texts that are not empty, got 1"),
        ({"options": ["red", " "]}, "options must be texts that are not empty"),
        ({"options": ["x"] * 27}, "there are 27 options; letters end at 26"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
    ],
)
@in_two_families
def test_what_cannot_be_asked_is_named(load, arguments, why):
    session = load(selector="self", budget=9).open(tiny.frames(2, 56, 84))
    with pytest.raises(ValueError, match=why):
        session.ask(**{"question": "What?", **arguments})
    dense = load().open(tiny.frames(2, 56, 84))
    with pytest.raises(ValueError, match="a budget has no effect on a dense model"):
        dense.ask("What?", budget=3)
    with pytest.raises(ValueError, match="takes pairs of a session and a question"):
        load().ask_all([dense])


def test_what_is_doubtful_in_the_video_is_in_the_answer(tmp_path):
    write_needle_videos(tmp_path, videos=1, patches=16, questions=1)
    (video,) = tmp_path.glob("*.mp4")
    for most, expected in ((64, ()), (8, ("shown at 0.452 frames per second instead of 2: longer than max_frames=8",))):
        fs = FlexSelect.from_pretrained(DEMO, selector="self", dtype="float32", device="cpu", max_frames=most)
        answer = fs.open(video, video_start="0:00", end=16).ask("What colour is the circle?", 4)
        assert [text.partition(" allows")[0] for text in answer.warnings] == list(expected)
    numbers = fs.open(torch.randint(0, 255, (12, 84, 84, 3), dtype=torch.uint8)).ask("What?", 4, verify=True)
    assert "the times of the frames are unknown: moments are numbers of units" in numbers.warnings
    part = fs.open(video, video_start=4, video_end="0:12")
    assert part.seconds.tolist() == fs.open(video, start=4, end=12).seconds.tolist() and part.seconds[0] == 4
    with pytest.raises(ValueError, match="start and video_start are two names of one option"):
        fs.open(video, start=1, video_start=1)
    with pytest.raises(ValueError, match="end must be seconds, or hours:minutes:seconds, got inf"):
        fs.open(video, end=float("inf"))
    assert map_tokens(fs.open(video), answer).num_units == 4, "an answer stands for its selection"
    assert len(repr(fs)) < 120 and len(repr(answer.selection)) < 80 and len(repr(fs.open(video).encode())) < 80


def test_moments_for_video_players():
    moments = [
        {"start": 3661.5, "end": 3663.25, "share": 0.5, "alone": 0.987},
        {"start": 2.0, "end": 4.0, "share": 0.25},
    ]
    vtt = web_vtt("What --> is\nit?", "a cup", moments)
    assert vtt.startswith("WEBVTT\n\n00:00:02.000 --> 00:00:04.000\nWhat --&gt; is it? a cup\nshare 0.25\n\n")
    assert "00:00:07.000 --> 00:00:09.000" in web_vtt("?", "a", moments, starts_at=5.0), "as browsers count"
    assert "01:01:01.500 --> 01:01:03.250\nWhat --&gt; is it? a cup\nalone 0.99\n" in vtt and vtt.count("-->") == 2
    lines = chapters("Is a=b; why?", "#1", moments).splitlines()
    assert lines[:5] == [";FFMETADATA1", "[CHAPTER]", "TIMEBASE=1/1000", "START=2000", "END=4000"]
    assert lines[5] == r"title=\#1: Is a\=b\; why? (share 0.25)"


KINDS = {  # times of 48 frames in milliseconds, ending of the file, part that is read, seconds of frames 24 to 27
    "constant": (range(0, 24_000, 500), "mp4", {}, (12.0, 14.0)),
    "variable": ([*range(0, 8000, 250), *range(8000, 24_000, 1000)], "mkv", {}, (6.0, 7.0)),
    "late": (range(3_600_000, 3_624_000, 500), "mkv", {}, (12.0, 14.0)),  # an hour after the clock's zero
    "a little late": (range(400, 24_400, 500), "mkv", {}, (12.0, 14.0)),
    "part": (range(0, 24_000, 500), "mp4", {"start": 5.0, "end": 21.0}, (12.0, 14.0)),
}


@pytest.mark.parametrize("kind", KINDS)
@in_two_families
def test_moments_of_real_files_are_at_their_own_seconds(load, tmp_path, kind):
    """A needle at known seconds, in every family: scores are how much each token changes with it."""
    times, ending, part, (start, end) = KINDS[kind]
    fs, files = load(fps=2.0), [tmp_path / f"{name}.{ending}" for name in ("with", "without")]
    for file, shown in zip(files, (range(24, 28), range(0))):
        write_at(file, times, frames=list(moving(56, 84, (0.1, 0.1, 0.9, 0.9), shown, 48)), height=56, width=84)
    there, away = (fs.open(file, **part).encode() for file in files)
    change = (there.features - away.features).float().norm(dim=-1)
    scores = 1 + 10 * (change / change.max()).square()  # the file's compression changes a little everywhere
    sets = frame_sets(there.num_units, there.tokens_per_unit, there.num_units)
    (moment,) = moments(Selection(scores, torch.arange(2), sets), there)
    assert player_offset(there.about.facts) == (times[0] / 1000 if "late" in kind else 0.0)
    unit = fs.family.frames_per_unit / 2  # seconds: when a frame is looked at, see `fps`
    assert moment.start == pytest.approx(start, abs=unit) and moment.end == pytest.approx(end, abs=unit)
    assert start <= moment.peak <= end
    last = float(unit_edges(there)[-1])
    assert last == 21.0 if part else 23.0 < last <= 24.0, "ends with the video, or with the part"
