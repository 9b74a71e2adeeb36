"""Pictures show what is there: tokens lie where they are said to, on frames of any form, in every family."""

from dataclasses import replace

import av
import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from flexselect import FlexSelect, Selection
from flexselect.scoring.reference_layer import ReferenceLayerScorer
from flexselect.storage.video_writer import write_video
from flexselect.visualize import draw_all, heat_map, map_tokens, overlay
from flexselect.visualize.all import teacher_selection
from flexselect.visualize.frames import OUTLINE, light, painter
from flexselect.visualize.layers import principal_components
from flexselect.visualize.report import _along, best_along, collect_evidence, mean_along
from flexselect.visualize.style import HEAT, clock_time, length_text, round_times, shorten
from flexselect.visualize.token_map import HEIGHT, TokenMap, stretch
from tests.fixtures import in_two_families

DEMO, SELECTOR = "checkpoints/demo/video_llm", "checkpoints/demo/selector"


def moving(height, width, box=None, shown=range(0), frames=12):
    """A dull gradient; in the frames `shown` a vivid box (top, left, bottom, right), shares of the frame."""
    y, x = np.mgrid[:height, :width]
    scene = np.stack([90 + 20 * y / height, 90 + 20 * x / width, np.full(y.shape, 90.0)], -1).astype(np.uint8)
    video = np.repeat(scene[None], frames, 0)
    if box is not None:
        top, left, bottom, right = (round(share * side) for share, side in zip(box, (height, width) * 2))
        video[shown.start : shown.stop, top:bottom, left:right] = (255, 20, 20)
    return video


@pytest.mark.parametrize("size", [(96, 352), (320, 112), (90, 130)], ids=["wide", "tall", "odd"])
@pytest.mark.parametrize("corner", [(0.05, 0.6), (0.65, 0.1)])
@in_two_families
def test_the_maximum_of_the_heat_map_covers_a_needle(load, model_folder, tmp_path, size, corner):
    """Scores are how much each token changes with the needle: file, resizing, tower, projection and layout are real."""
    fine = {"min_pixels": 224 * 224, "max_pixels": 336 * 336} if model_folder.name[:4] in ("qwen", "glm4") else {}
    fine |= {"max_pixels": 560 * 560} if model_folder.name == "minicpm_v" else {}
    fs = load(fps=2.0, **fine)
    box = (*corner, corner[0] + 0.25, corner[1] + 0.25)
    for name, shown in (("with", range(6, 8)), ("without", range(0))):
        write_video(tmp_path / f"{name}.mp4", [moving(*size, box, shown)], fps=2)
    session, blank = (fs.open(tmp_path / f"{name}.mp4") for name in ("with", "without"))
    scores = (session.encode().features - blank.encode().features).float().norm(dim=-1)
    token_map = map_tokens(session, Selection(scores, scores.topk(4).indices.sort().values, []))
    unit = int(token_map.best.argmax())
    assert 6 <= unit * fs.family.frames_per_unit <= 7, "in time"
    heat = stretch(token_map.scores[unit], *size)
    y, x = np.nonzero(heat == heat.max())
    for way, places, low, high in (("height", y / size[0], box[0], box[2]), ("width", x / size[1], box[1], box[3])):
        assert places.min() < high and places.max() > low, f"meets the needle in {way}, whatever the frame's form"
        assert places.max() - places.min() < 0.6, "canary: a token that is the whole frame meets anything"
    (frame,) = token_map.frames([unit])
    assert frame.shape == (*size, 3), "the frame of the file, not the tower's"
    vivid = (frame[..., 0] > 200) & (frame[..., 1] < 90)
    assert vivid[y, x].mean() > 0.2, "the needle's own pixels"
    lit = light(frame, token_map.kept[unit])
    assert (lit[int(y.mean()), int(x.mean())] == frame[int(y.mean()), int(x.mean())]).all()
    painted = painter(token_map)(np.full((*size, 3), 128, np.uint8), unit).astype(float).sum(-1)
    assert (painted[y, x] == painted.max()).all() and painted.min() < painted.max(), "the best score is the brightest"


@pytest.mark.parametrize("size", [(120, 320), (320, 120)], ids=["wide", "tall"])
def test_a_trained_models_attention_lies_on_what_is_asked_for(tmp_path, size):
    """The demo's model, on frames of other forms and sizes than it was trained on."""
    fs = FlexSelect.from_pretrained(DEMO, selector="self", dtype="float32", device="cpu", budget=12)
    box = (0.5, 0.6, 0.8, 0.8) if size[1] > size[0] else (0.6, 0.4, 0.75, 0.8)
    write_video(tmp_path / "clip.mp4", [moving(*size, box, range(12, 15), frames=32)], fps=2)
    session = fs.open(tmp_path / "clip.mp4")
    token_map = map_tokens(session, session.select("Which shape is red?"))
    unit = int(token_map.best.argmax())
    assert unit in (6, 7)
    y, x = np.nonzero(stretch(token_map.scores[unit], *size) == token_map.best.max())
    assert y.min() < box[2] * size[0] and y.max() > box[0] * size[0]
    assert x.min() < box[3] * size[1] and x.max() > box[1] * size[1]


def test_newlines_and_brackets_lie_on_no_picture(load):
    fs = load()
    encoded = fs.open(moving(56, 84, frames=4)).encode()
    number = torch.arange(encoded.num_tokens)
    on = fs.family.on_picture(number, encoded.grid)
    per_unit = number.view(encoded.num_units, -1)
    beside = per_unit[~torch.isin(per_unit, on)].view(encoded.num_units, -1)
    kind = type(fs.family).__name__
    if kind == "LlavaVideo" and fs.family.newlines == "grid":
        assert (
            torch.equal(on, per_unit.view(len(per_unit), on.shape[1], -1)[..., :-1]) and beside.shape[1] == on.shape[1]
        )
    elif kind == "InternVL":
        assert beside.tolist() == [[row[0], row[-1]] for row in per_unit.tolist()] and on.shape[1] == on.shape[2]
    else:
        assert beside.numel() == 0 and torch.equal(on.flatten(), number)
    kept = torch.cat([beside[0], on[1].flatten()[:1]]).sort().values
    token_map = map_tokens(fs.open(moving(56, 84, frames=4)), Selection(torch.rand(encoded.num_tokens), kept, []))
    assert token_map.kept.sum() == 1 and token_map.kept[1].flatten()[0], "what lies on no picture lights nothing"
    assert token_map.kept_by_unit.tolist()[:2] == [beside.shape[1], 1], "but counts as kept"


def test_a_released_selectors_shift_is_drawn(load):
    fs = load()
    session = fs.open(moving(56, 84, frames=4))
    total = session.encode().num_tokens
    selection = Selection(torch.rand(total), torch.tensor([1, 5]), [], shift=2)
    number = torch.arange(total)
    lit = fs.family.on_picture(torch.isin(number, torch.tensor([3, total - 2, total - 1])), session.encode().grid)
    assert np.array_equal(map_tokens(session, selection).kept, lit.numpy()), "1 - 2 is text; the last two always stay"


@in_two_families
def test_all_pictures_in_every_family(load, tmp_path):
    fs = load(selector="self", budget=9)
    write_video(tmp_path / "clip.mp4", [moving(60, 100)], fps=2)
    session = fs.open(tmp_path / "clip.mp4")
    files = draw_all(tmp_path / "out", session, "What is there?", session.select("What is there?"), units=3)
    assert len(files) == 5
    for file in files:
        if file.suffix == ".png":
            assert np.asarray(Image.open(file).convert("L")).std() > 10, f"{file} is blank"
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as movie:
        frames = [frame.to_ndarray(format="rgb24") for frame in movie.decode(video=0)]
    assert len(frames) % session.encode().num_units == 0 and frames[0].shape[0] >= 240
    assert np.abs(frames[0].astype(int) - frames[-1]).max() > 50, "the line moves"


def test_a_selector_beside_its_teacher(tmp_path, videos):
    fs = FlexSelect.from_pretrained(DEMO, selector=SELECTOR, dtype="float32", device="cpu", budget=12)
    session = fs.open(next(videos.glob("*.mp4")))
    files = draw_all(tmp_path, session, "Which shape is red?", session.select("Which shape is red?"))
    assert files[-1].name == "teacher_and_selector.png" and Image.open(files[-1]).size[0] > 800


@pytest.mark.parametrize("trained", [{"layer": 0, "reduction": "mean"}, {"layer": 1, "reduction": "max"}, None])
def test_the_teacher_is_the_one_that_the_selector_was_trained_with(videos, trained):
    """Not always the family's layer and "max"; where nothing is written down, the family's layer."""
    fs = FlexSelect.from_pretrained(DEMO, selector=SELECTOR, dtype="float32", device="cpu", budget=12, units_per_set=4)
    fs.scorer.selector.config.training = trained
    session = fs.open(next(videos.glob("*.mp4")))
    selection = session.select("Which shape is red?")
    assert len(selection.sets) > 1
    result = teacher_selection(session, "Which shape is red?", selection).scores
    asked = trained or {"layer": fs.family.default_reference_layer, "reduction": fs.scorer.selector.config.reduction}
    scorer = ReferenceLayerScorer(fs.lm, asked["layer"], asked["reduction"])
    query = fs.lm.prompter.query_ids("Which shape is red?")
    (expected,) = scorer.score_many(session.encode(), [query], selection.sets)
    torch.testing.assert_close(result, expected)
    (other,) = ReferenceLayerScorer(fs.lm, 2, "mean").score_many(session.encode(), [query], selection.sets)
    assert not torch.allclose(result, other, rtol=1e-2), "canary: the layer matters"


@in_two_families
def test_a_control_has_no_scores_to_draw(load, tmp_path):
    fs = load(selector="uniform", budget=4)
    session = fs.open(moving(56, 84, frames=6))
    selection = session.select("?")
    files = {file.name for file in draw_all(tmp_path / "out", session, "?", selection)}
    assert "kept_tokens.png" in files and "heat_map.png" not in files and not map_tokens(session, selection).scored
    assert collect_evidence(session, selection)["best"] == []
    with pytest.raises(ValueError, match="nothing to draw"):
        map_tokens(session, None)


@pytest.mark.parametrize(
    ("size", "frames"),
    [
        pytest.param((640, 96), 2, id="tall, short"),
        pytest.param((96, 640), 24, id="wide, long", marks=pytest.mark.slow),
        pytest.param((48, 48), 2, id="small, short"),
    ],
)
def test_pictures_of_any_form_are_of_a_size_to_look_at(tmp_path, size, frames):
    fs = FlexSelect.from_pretrained(DEMO, selector=SELECTOR, dtype="float32", device="cpu", budget=12)
    session = fs.open(moving(*size, frames=frames))
    for file in draw_all(tmp_path, session, "Which shape is red?", session.select("Which shape is red?")):
        if file.suffix == ".png":
            width, height = Image.open(file).size
            assert width >= 800 and height <= 1200, f"{file.name}: {width} x {height}"


def test_time_along_a_report_is_even():
    for units in (1, 90, 256):
        bars = mean_along(np.full(units, 9), np.arange(units + 1.0))
        assert len(bars) == min(units, 120) and set(bars) == {9.0}, "as many tokens a unit are as tall a bar"
    bars = best_along(np.arange(256) == 128, np.arange(257.0))
    assert bars.index(1.0) == 60, "the middle is in the middle"
    uneven = np.array([10.0, 11.0, 12.0, 22.0, 30.0])  # a part of a video with a variable frame rate
    bars = best_along(np.array([0, 1, 0, 2]), uneven)
    assert len(bars) == 120 and bars[6] == bars[11] == 1.0 and bars[5] == bars[12] == 0.0 and set(bars[72:]) == {2.0}
    assert mean_along(np.array([4, 0, 0, 0]), uneven)[:7] == [4.0] * 6 + [0.0]
    for values in (np.arange(5.0), np.arange(90.0)):
        assert best_along(values, np.arange(len(values) + 1) / 3) == values.tolist()
    assert _along([{"kept": [5]}]) == pytest.approx([0.05] * 20), "a unit lasts as long as its video"


def test_where_frames_come_from(load, tmp_path):
    fs = load(selector="uniform", budget=4)
    video = moving(400, 600, frames=4)
    session = fs.open(video)
    (frame,) = map_tokens(session, session.select("?")).frames([0])
    assert frame.shape == (HEIGHT, 540, 3), "large frames are made smaller, in their own form"
    session.save(tmp_path / "saved")
    loaded = fs.load_session(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"set session\.video"):
        map_tokens(loaded, loaded.select("?"))
    loaded.video = torch.from_numpy(video)
    heat_map(map_tokens(loaded, loaded.select("?"))).savefig(tmp_path / "heat.png")
    assert Image.open(tmp_path / "heat.png").size[0] > 800


@in_two_families
def test_a_long_video_is_drawn_frame_by_frame(load, tmp_path):
    """Only the units that a picture shows are asked for; the overlay asks for all, one after another."""
    fs = load(selector="random", budget=4)
    session = fs.open(moving(56, 84, frames=40))
    token_map = map_tokens(session, session.select("?"))
    asked = []

    def frames(units):
        asked.append(len(list(units)))
        return token_map.frames(units)

    heat_map(replace(token_map, frames=frames), units=5)
    assert asked == [5], "read once"
    overlay(tmp_path / "all.mp4", replace(token_map, frames=frames))
    assert asked[-1] == token_map.num_units


def test_colours_read_the_same_in_greyscale():
    rgb = matplotlib.colormaps[HEAT](np.linspace(0, 1, 64))[:, :3]
    grey = rgb @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(grey) > 0).all() and grey[-1] - grey[0] > 0.8


def test_words_and_times():
    assert [clock_time(second) for second in (7.9, 754, 3723)] == ["0:07", "12:34", "1:02:03"]
    assert shorten("What costs $5?\nA.", 40) == r"What costs \$5? A." and shorten("abcdef", 4) == "abc…"


def test_principal_components_are_those_of_the_covariance():
    states = torch.randn(200, 6) * torch.tensor([9.0, 5.0, 1.0, 1.0, 1.0, 1.0])
    flat, share = principal_components(states)
    values = torch.linalg.eigvalsh(torch.cov(states.T))
    assert share == pytest.approx(float(values[-2:].sum() / values.sum()), rel=1e-4)
    assert torch.allclose(flat.var(0), values[[-1, -2]], rtol=1e-3)


def a_map(scores, kept, seconds=None, end=None, scored=True):
    frames = np.full((len(scores), 60, 80, 3), 8, np.uint8)  # dark
    return TokenMap(
        np.asarray(scores, np.float32),
        np.asarray(kept, bool),
        np.asarray(kept).sum((1, 2)),
        seconds,
        end,
        scored,
        lambda units: (frames[unit] for unit in units),
    )


def test_kept_tokens_are_outlined_on_a_dark_frame():
    kept = np.array([[True, False], [False, False]])
    dark = np.full((60, 80, 3), 3, np.uint8)
    lit = light(dark, kept)
    outlined = (lit == OUTLINE).all(-1)
    assert outlined[0, :40].all() and outlined[:30, 0].all() and outlined[29, :40].all() and outlined[:30, 39].all()
    assert not outlined[1:29, 1:39].any() and not outlined[30:].any() and not outlined[:, 40:].any()
    assert (light(dark, np.ones((2, 2), bool))[0] == OUTLINE).all(), "a dark frame that is kept whole is seen, too"


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_a_text_stays_legible_in_a_heat_map(score):
    """Its letters are a third as bright above the ground as in the frame, at least."""
    text = np.zeros((60, 80, 3), np.uint8)
    text[::2] = 255
    token_map = a_map([[[0.0, 1.0]]], [[[False, True]]])
    painted = painter(token_map)(text, 0)[:, 60 if score else 20].astype(int).mean(-1)
    assert painted[0] - painted[1] > 255 * 0.3


def test_frames_of_kept_tokens_have_some():
    """Not those with the best scores, if nothing of them was kept: a frame set's budget may go elsewhere."""
    kept = np.zeros((6, 1, 1), bool)
    kept[[1, 3, 4]] = True
    token_map = a_map(np.array([9, 1, 8, 3, 2, 7]).reshape(6, 1, 1), kept)
    assert (
        token_map.best_units(2) == [0, 2] and token_map.kept_units(2) == [3, 4] and token_map.kept_units(9) == [1, 3, 4]
    )
    assert replace(token_map, scored=False).kept_units(2) == [1, 4], "a control's are evenly spread"
    assert replace(token_map, kept=kept & False).kept_units(2) == [0, 2]


def test_lengths_are_right_to_the_second():
    """A moment is when it begins, rounded down as players do; a length is rounded."""
    assert [length_text(seconds) for seconds in (29.97, 30.0, 30.4, 3599.6)] == ["0:30", "0:30", "0:30", "1:00:00"]
    assert clock_time(29.97) == "0:29"


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (0, 9, [0, 2, 4, 6, 8]),
        (0, 256, [0, 60, 120, 180, 240]),
        (61, 240, [90, 120, 150, 180, 210, 240]),
        (0, 7200, [0, 900, 1800, 2700, 3600, 4500, 5400, 6300, 7200]),
    ],
)
def test_ticks_are_on_round_times(first, last, expected):
    assert round_times(first, last) == expected


def test_a_time_axis_ends_with_the_video():
    """Frames that lie far apart: the last one is near the end."""
    seconds = np.array([0.0, 600.0, 1195.0])
    token_map = a_map(np.zeros((3, 1, 1)), np.zeros((3, 1, 1)), seconds, end=1200.0)
    assert token_map.edges[-1] == 1200.0 and replace(token_map, end=None).edges[-1] > 1700


def test_the_overlay_plays_at_the_videos_pace(tmp_path):
    seconds = np.array([0.0, 2.5, 5.0, 7.5])
    token_map = a_map(np.random.rand(4, 2, 2), np.ones((4, 2, 2)), seconds, end=10.0)
    overlay(tmp_path / "a.mp4", token_map, "What is shown? → " + "a very long answer " * 9)
    overlay(tmp_path / "b.mp4", token_map, "什么?")
    with av.open(str(tmp_path / "a.mp4")) as movie:
        frames = [(float(frame.pts * frame.time_base), frame.to_ndarray(format="rgb24")) for frame in movie.decode()]
        assert float(movie.duration) / 1e6 == pytest.approx(10.0, abs=0.1) and len(frames) == 12
    lines = [picture[4:20, :200].astype(int) for _, picture in frames]
    assert np.abs(lines[0] - lines[2]).max() < 40 and np.abs(lines[0] - lines[3]).max() > 100, "the clock, after 2.5 s"
    assert frames[0][1].shape[0] > 240 + 24 + 3 * 20, "the text is broken into lines, and all of it is there"
