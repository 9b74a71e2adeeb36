"""Looking twice: exact where everything is looked at, cheap elsewhere, for every family."""

import math

import pytest
import torch

import cli
from datamodules.announced_needles import write_announced_videos
from datamodules.needles import write_needle_videos
from flexselect import FlexSelect
from flexselect.looks.first_look import Source
from flexselect.looks.merged import cells
from flexselect.looks.plan import look_sizes, plan_looks
from flexselect.looks.regions import look_at, places_of
from flexselect.storage.json_lines import read_json_lines
from flexselect.structures.frames import FrameStream
from flexselect.structures.sparse_video import SparseVideo
from lightning_modules.video_qa import VideoQA
from tests.fixtures import in_two_families

ALL = {"cost": 2}
QUESTION = "Which shape is red?"


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    folder = tmp_path_factory.mktemp("video")
    write_needle_videos(folder, videos=1, patches=24, seed=3)
    return folder / "needles_000.mp4"


@pytest.fixture
def frames_read(monkeypatch):
    """Numbers of frames that were asked for, one list per reading."""
    read, real = [], FrameStream.frames_at

    def frames_at(self, indices):
        read.append(list(indices))
        return real(self, indices)

    monkeypatch.setattr(FrameStream, "frames_at", frames_at)
    return read


def test_all_looked_at_twice_is_the_full_look(load, video):
    """The same tokens, scores and logits, positions and timestamps included."""
    once, twice = load(selector="self", budget=20).open(video), load(selector="self", budget=20, **ALL).open(video)
    one, two = (session.ask(QUESTION, max_new_tokens=4) for session in (once, twice))
    torch.testing.assert_close(two.selection.scores, one.selection.scores.cpu(), atol=1e-6, rtol=1e-5)
    assert torch.equal(two.selection.kept, one.selection.kept.cpu()) and torch.equal(two.ids, one.ids)
    requests = [session.requests([QUESTION])[0] for session in (once, twice)]
    logits = [
        session.engine.lm.next_token_logits(
            session.engine.lm.assemble(request.encoded, request.query_ids, request.selection, session.engine.positions)
        )
        for session, request in zip((once, twice), requests)
    ]
    torch.testing.assert_close(logits[1], logits[0], atol=1e-5, rtol=1e-5)
    assert two.likelihood == pytest.approx(one.likelihood, abs=1e-5)
    assert [m.units for m in two.moments] == [m.units for m in one.moments]
    assert twice.grid == once.grid and torch.equal(twice.seconds, once.seconds)


def test_a_budget_that_the_second_look_cannot_fill_is_filled_from_the_first(load, video):
    fs = load(selector="self", budget=10**6, cost=0.5, first_look_shrink=1)
    (request,) = fs.open(video).requests([QUESTION])
    shown = int((request.encoded.rows >= 0).sum())
    assert len(request.selection.kept) == shown, "all tokens, but those of the first look that were seen again in full"
    tight = load(selector="self", budget=request.encoded.fine.shape[0] + 2, cost=0.5, first_look_shrink=1)
    assert len(tight.open(video).select(QUESTION).kept) == request.encoded.fine.shape[0] + 2


def test_the_first_look_may_have_a_layer_of_its_own(load, video):
    """Its scores are those of that layer, in cost and choice; the second look has the model's."""
    common = {"selector": "self", "budget": 20, "reference_layer": 2, "cost": 1, "first_look_shrink": 1}
    own, same = (load(**common, **more).open(video) for more in ({"first_look_layer": 1}, {"first_look_layer": 2}))
    at_first = load(**{**common, "reference_layer": 1}).open(video)
    scores = [
        s.engine.select_encoded(s.encode(), [s.engine.lm.prompter.query_ids(QUESTION)])[0].scores
        for s in (own, at_first)
    ]
    assert torch.equal(*scores) and (own.engine.scorer.layer, own.looks.engine.scorer.layer) == (1, 2)
    costs = [session.ask(QUESTION, max_new_tokens=2).cost for session in (own, same)]
    assert costs[0].tflop < costs[1].tflop and costs[0].scored == costs[1].scored
    plain = load(**common).open(video).ask(QUESTION, max_new_tokens=2)
    assert torch.equal(same.ask(QUESTION, max_new_tokens=2).selection.kept, plain.selection.kept)


def test_a_trained_selector_looks_twice(video):
    """Of the demo, with scores of its own in both looks; all looked at twice is the full look."""
    demo, lite = "checkpoints/demo/video_llm", "checkpoints/demo/selector"
    common = {"selector": lite, "dtype": "float32", "device": "cpu", "budget": 20}
    one, two, half = (
        FlexSelect.from_pretrained(demo, **common, **cost).open(video).ask(QUESTION)
        for cost in ({}, ALL, {"cost": 0.75, "first_look_shrink": 1})
    )
    assert torch.equal(one.selection.kept, two.selection.kept) and one.text == two.text
    assert len(half.selection.kept) == 20 and half.presence is not None


def test_a_part_is_looked_at_in_full(load, video, frames_read):
    """Kept tokens have the features of the look that they are from; a later question reads what is new to it only."""
    fs = load(selector="self", budget=20, cost=0.5)
    session = fs.open(video)
    plan, per_unit = session.looks.source.plan, fs.family.frames_per_unit
    assert frames_read == [[unit * per_unit for unit in plan.coarse]], "one frame of each"
    (request,) = session.requests([QUESTION])
    seen, kept, encoded = frames_read[1], request.selection.kept, request.encoded
    units = {frame // per_unit for frame in seen}
    assert isinstance(encoded, SparseVideo) and len(units) == plan.fine
    assert len(frames_read[0]) + len(seen) <= 0.5 * session.sampling["frames"]
    whole = load(selector="self").open(video).encode()
    of_second = torch.tensor([int(token) // whole.tokens_per_unit in units for token in kept])
    assert of_second.any() and len(kept) == 20
    torch.testing.assert_close(encoded.take(kept[of_second]), whole.take(kept[of_second]), atol=1e-5, rtol=1e-4)
    assert encoded.holds(kept).all() and not encoded.holds(torch.arange(encoded.num_tokens)).all()
    first = session.encode()
    rows = (encoded.take(kept[~of_second])[:, None] - first.features[None]).abs().amax(-1)
    assert (rows.amin(1) < 1e-6).all(), "tokens of the first look"
    session.requests([QUESTION])
    assert len(frames_read) == 2, "the same units: nothing is read"
    answers = session.ask_all([QUESTION, "What colour is the circle?"], max_new_tokens=2)
    height, width = session.looks.full.pixels.shape[1:3]
    for answer in answers:
        assert answer.cost.frames == len(frames_read[0]) + len(seen) <= answer.cost.decoded
        assert answer.cost.scored == answer.num_visual_tokens and answer.cost.kept == 20
        assert len(seen) * height * width < answer.cost.pixels <= answer.cost.frames * height * width
        assert answer.num_visual_tokens == encoded.num_encoded < whole.num_tokens
    assert frames_read[0] not in frames_read[1:], "the first look is taken once"


def test_only_a_region_is_looked_at_in_full(load, video):
    """A quarter of each frame, where the first look has its highest score; its tokens have their places."""
    fs = load(selector="self", budget=12, cost=1, first_look_shrink=1, second_look_area=0.25)
    session = fs.open(video)
    (request,) = session.requests([QUESTION])
    encoded, source, side = request.encoded, session.looks.source, fs.lm.prompter.token_side
    views, (_, rows, columns) = list(session.looks.parts), session.grid
    fine = (encoded.rows >= len(encoded.features)).view(-1, rows, columns)
    if side is None:
        assert "the tower takes frames of one size only" in session.warnings[-1]
        assert fine.sum() == len(views) * rows * columns
        return
    height, width = (max(1, round(length / 2)) for length in (rows, columns))
    assert height * width < rows * columns and not session.warnings
    read, first = source.second(views).all_frames(), session.encode()
    whole = torch.cat(list(source.stream.frames_at(source.frames_of([view.unit for view in views]))))
    seen = session.engine.select_encoded(first, [request.query_ids], None, 12)[0].scores.view(-1, rows, columns)
    frames = {frame: i for i, frame in enumerate(source.frames_of([view.unit for view in views]))}
    for unit, row, column in views:
        inside = slice(row, row + height), slice(column, column + width)
        assert fine[unit].sum() == fine[unit][inside].sum() == height * width
        place = min(range(len(source.plan.coarse)), key=lambda i: abs(source.plan.coarse[i] - unit))
        regions = seen[place].unfold(0, height, 1).unfold(1, width, 1).sum((-2, -1))
        assert regions[row, column] == pytest.approx(float(regions.max()), abs=1e-6)
        for frame in source.frames_of([unit]):
            shown = whole[frames[frame]][row * side :, column * side :][: height * side, : width * side]
            assert torch.equal(read[frames[frame]], shown)
    cost = session.ask(QUESTION, max_new_tokens=2).cost
    per_frame = height * width * side**2
    assert cost.pixels == len(read) * per_frame + first.tower_input[0] * rows * columns * side**2
    assert cost.scored == len(first.features) + len(views) * height * width


def test_regions():
    scores = torch.tensor([[[0.0, 1], [0, 0]], [[0, 0], [5, 0]]]).flatten()  # of two units of the first look
    views = look_at([0, 2, 3, 9], scores, (1, 5), (2, 2), (4, 6), (2, 3))
    assert views == [(0, 0, 3), (2, 0, 3), (3, 0, 3), (9, 2, 0)]
    assert places_of(views[-1:], 6, (2, 3)).tolist() == [[12, 13, 14, 18, 19, 20]]
    assert look_at([7], scores, (1, 5), (2, 2), (4, 6), (4, 6)) == [(7, 0, 0)], "all of it"
    assert look_sizes(84, 168, 28, 2, 0.25) == ((56, 84), (56, 84)), "sides of multiples of 28 pixels"
    assert look_sizes(84, 84, 28, 3, 0.25) == ((28, 28), (84, 84)), "one token says nothing about regions"
    assert look_sizes(384, 384, None, 2, 0.25) == ((384, 384), (384, 384))


@in_two_families
def test_proof_and_pictures(load, video, tmp_path):
    from flexselect.visualize.all import draw_all

    session = load(selector="self", budget=20, cost=0.5).open(video)
    answer = session.ask(QUESTION, max_new_tokens=2, verify=True)
    assert answer.moments and answer.verification is not None
    seen = {int(token) // math.prod(session.grid[1:]) for tokens in answer.selection.sets for token in tokens}
    assert all(set(range(*moment.units)) <= seen for moment in answer.moments)
    files = draw_all(tmp_path, session, QUESTION, answer.selection)
    assert all(file.stat().st_size for file in files) and "states_by_layer.png" not in {file.name for file in files}


def test_what_was_seen_is_kept_within_its_bytes(checkpoint, video):
    few = FlexSelect.from_pretrained(
        str(checkpoint), selector="self", dtype="float32", device="cpu", cost=1.0, second_look_gb=2e-6
    )
    session = few.open(video)
    answer = session.ask(QUESTION, max_new_tokens=2)
    assert session.num_bytes["second look"] == session.looks.num_bytes <= 2000
    again = session.ask(QUESTION, max_new_tokens=2)
    assert torch.equal(again.ids, answer.ids) and again.timings["decode"] > session.timings["decode"]


def test_plans():
    plan = plan_looks(100, 1, 0.25, 0.5)
    assert plan.every == 8 and list(plan.coarse)[:3] == [0, 8, 16] and plan.fine == 25 - 13
    plan = plan_looks(100, 2, 0.25, 0.5)
    assert plan.every == 4 and plan.fine == 25 - 13, "25 units have one of their two frames taken: 12.5 units"
    for per_unit in (1, 2):
        plan = plan_looks(100, per_unit, 2, 0.5)
        assert plan.every == 1 and plan.fine == 100
    for units in (1, 2, 3, 17, 1000):
        for cost in (0.01, 0.1, 0.3, 1, 1.7, 2):
            for share in (0.1, 0.5, 0.9, 1.0):
                plan = plan_looks(units, 1, cost, share)
                total = len(plan.coarse) + plan.fine
                assert 1 <= plan.fine <= units and len(plan.coarse) >= 1
                assert total <= cost * units + 2, "at most the cost, but at least one unit each, rounded up"


def test_the_first_look_takes_what_is_cheap_to_decode():
    """Of each four units the one that follows a key frame; the second look ends where the next ones are."""
    costs = [9, 3, 1, 2, 3, 4, 5, 6, 7, 1]
    plan = plan_looks(10, 1, 0.9, 0.3, costs.__getitem__)
    assert plan.every == 4 and plan.coarse == (2, 4, 9) and plan.fine == 6
    assert plan.choose([0.0, 0.0, 1.0]) == [2, 5, 6, 7, 8, 9], "to the neighbour, then the next best"


def test_key_frames_are_looked_at_first(checkpoint, video):
    """With sampling near: a file's first look decodes fewer frames than units at even distances do."""
    how = {"selector": "self", "dtype": "float32", "device": "cpu", "cost": 0.6}
    sessions = [
        FlexSelect.from_pretrained(str(checkpoint), **how, sampling=sampling).open(video)
        for sampling in ("exact", "near")
    ]
    looks = [session.looks.source for session in sessions]
    decoded = [source.first().about.decoded for source in looks]
    assert decoded[1] < decoded[0] and len(looks[0].plan.coarse) == len(looks[1].plan.coarse)
    sampling = sessions[1].looks.sampling(sessions[1].encode())
    assert "moved" in sampling and not [name for name in sampling if "decoded" in name], "the cost has that of both"


def test_the_second_look_is_around_what_stands_out():
    plan = plan_looks(32, 1, 0.5, 0.5)  # units 0, 4, 8, ...; 8 in full
    distance = [0.0, 9.0, 0.0, 0.0, 0.0, 5.0, 0.0, 0.0]
    assert plan.choose(distance) == [1, 2, 3, 4, 5, 6, 7, 20]
    assert plan.choose([0, 0, 0, 0, 0, 0, 0, 1.0]) == [0, 25, 26, 27, 28, 29, 30, 31], "the last, then the earliest"


def test_cells_of_a_smaller_picture():
    covering, middle = cells((1, 2), (3, 4))
    assert covering.tolist() == [0, 0, 1, 1] * 3 and middle.tolist() == [5, 7]
    covering, middle = cells((3, 3), (3, 3))
    assert covering.tolist() == middle.tolist() == list(range(9))
    for few, many in (((2, 3), (5, 7)), ((1, 258), (1, 258)), ((4, 5), (8, 11))):
        covering, middle = cells(few, many)
        assert torch.equal(covering[middle], torch.arange(math.prod(few))), "a token's middle is its own"


def test_an_odd_last_frame(checkpoint):
    fs = FlexSelect.from_pretrained(str(checkpoint), selector="self", dtype="float32", device="cpu", budget=9, **ALL)
    plain = FlexSelect.from_pretrained(str(checkpoint), selector="self", dtype="float32", device="cpu", budget=9)
    frames = torch.randint(0, 256, (9, 84, 84, 3), dtype=torch.uint8)
    one, two = (each.open(frames).ask(QUESTION, max_new_tokens=2) for each in (plain, fs))
    assert torch.equal(one.selection.kept, two.selection.kept) and torch.equal(one.ids, two.ids)
    clip = fs.lm.prompter.clip(frames, torch.arange(9) / 2)  # with a copy of the last frame
    decoded = fs.open_source(clip).ask(QUESTION, max_new_tokens=2)
    assert torch.equal(decoded.ids, two.ids) and decoded.cost.frames == 9 + 5, "one frame of each unit, then all"
    source = Source(fs.open(frames).source, fs.lm, 2, 0.5, 1.0, 1.0)
    assert source.frames_of([3, 4]) == [6, 7, 8]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cost": 0}, "cost must be a number above 0 and at most 2, got 0"),
        ({"cost": 3}, "at most 2, got 3"),
        ({"cost": "a"}, "cost must be a number"),
        ({"cost": 0.5, "first_look_share": 0}, "first_look_share must be a number above 0 and at most 1"),
        ({"cost": 0.5, "first_look_share": None}, "first_look_share must be a number above 0 and at most 1, got None"),
        ({"cost": 0.5, "second_look_gb": None}, "second_look_gb must be a number above 0, got None"),
        ({"cost": 0.5, "first_look_shrink": 0.5}, "first_look_shrink must be a number of at least 1"),
        ({"cost": 0.5, "second_look_gb": 0}, "second_look_gb must be a number above 0"),
        ({"cost": 0.5, "second_look_area": 1.5}, "second_look_area must be a number above 0 and at most 1, got 1.5"),
        ({"first_look_share": 0.2, "second_look_gb": 2}, "first_look_share, second_look_gb: for two looks only"),
        ({"cost": 0.5, "first_look_layer": 9}, "first_look_layer must be between 0 and 3 for this model, got 9"),
        ({"cost": 0.5, "first_look_layer": 1, "selector": "uniform"}, "cost needs scores"),
        ({"first_look_layer": 1}, "first_look_layer: for two looks only"),
        ({"cost": 0.5, "selector": None}, "cost needs scores to look again by"),
        ({"cost": 0.5, "selector": "uniform"}, "cost needs scores to look again by"),
    ],
)
def test_wrong_options(checkpoint, options, message):
    with pytest.raises(ValueError, match=message):
        FlexSelect.from_pretrained(str(checkpoint), **{"selector": "self", **options})


def test_features_alone_cannot_be_looked_at_again(checkpoint, video, tmp_path):
    plain = FlexSelect.from_pretrained(str(checkpoint), selector="self", dtype="float32", device="cpu")
    fs = FlexSelect.from_pretrained(str(checkpoint), selector="self", dtype="float32", device="cpu", cost=0.5)
    plain.open(video).save(tmp_path / "session")
    with pytest.raises(ValueError, match="needs the video itself, not features of it"):
        fs.load_session(tmp_path / "session")
    with pytest.raises(ValueError, match="cannot be saved without it"):
        fs.open(video).save(tmp_path / "session")
    with pytest.raises(ValueError, match="feature_cache keeps whole videos in full"):
        VideoQA(plain.family, selector="self", cost=0.5, feature_cache=str(tmp_path / "cache"))


def test_a_run(checkpoint, videos, tmp_path):
    """Workers do not decode ahead, since they would decode all."""
    words = ["validate", "--config", "configs/demo/self.yaml", "--family.path", str(checkpoint)]
    words += ["--data.annotations", str(videos / "annotations.jsonl"), "--data.num_workers", "2"]
    words += ["--model.cost", "0.5", "--output_dir", str(tmp_path)]
    assert cli.main(words) == 0
    from flexselect.evaluation.results import read_predictions

    rows = read_predictions(tmp_path)
    assert len(rows) == 8 and all(row["error"] is None for row in rows)
    assert all(row["sampling"]["first_look"]["every"] == 2 for row in rows)


def test_the_shipped_model_finds_what_was_announced(tmp_path):
    """Two looks at 22 % of the 768 frames of a full look are nearly as right; one look at as many frames is not."""
    annotations = write_announced_videos(tmp_path, 2, 600, 3, 6, seed=22, false=1, key_distance=16)
    rows, _ = read_json_lines(annotations)
    how = {"selector": "self", "positions": "compact", "budget_split": "mass", "dtype": "float32", "device": "cpu"}
    looks = {"cost": 0.22, "first_look_share": 1 / 3.52, "first_look_shrink": 3.0}
    right, self = {}, {**looks, "first_look_layer": 3}
    lite = {**looks, "selector": "checkpoints/demo/two_looks_selector"}
    for name, options in (("full", {}), ("two", self), ("two, lite", lite), ("one", {"max_frames": 168})):
        fs = FlexSelect.from_pretrained("checkpoints/demo/two_looks", **{**how, **options})
        sessions = {video: fs.open(tmp_path / video, progress=False) for video in {row["video"] for row in rows}}
        right[name] = sum(sessions[row["video"]].ask(row["question"], 4).text == row["answer"] for row in rows)
    assert right["full"] >= 11 and right["two"] >= 11 and right["two, lite"] >= 9, right
    assert right["one"] <= min(right["two"], right["two, lite"]) - 2, right
