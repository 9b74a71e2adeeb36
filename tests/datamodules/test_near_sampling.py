"""Frames near the wanted ones, from real files: right pictures, true times, and no more decoded than was counted."""

import json

import av
import numpy as np
import pytest
import torch

import cli
from datamodules.needles import write_needle_videos
from datamodules.video import open_video, read_file, read_video
from datamodules.video_files.decoding import Decoder, decode_frames
from flexselect import FlexSelect
from flexselect.families import FAMILIES, family_of
from flexselect.families.inputs import even_frames
from flexselect.structures.frames import ReadOptions, stream_of_file
from flexselect.structures.readers import load_reader
from tests.datamodules.test_video import FILES, as_it_is, write_like_the_web

DEMO = "checkpoints/demo/video_llm"
NEAR = ReadOptions(sampling="near")
COUNTED = ("b_frames.mp4", "pyramid.mov", "one_key.mp4", "hevc.mp4", "open_gop.mkv", "fragments.mp4")
AT_MOST = ("av1.mkv", "web.webm", "mpeg4.mp4", "prores.mov")  # their packets do not tell all


def two_a_second(num_frames, fps):
    return even_frames(num_frames, fps, 2.0, 1024)


def near(tolerance=None, **options):
    return ReadOptions(sampling="near", tolerance=tolerance, **options)


class CountedContext:
    """A codec context that counts the frames which it returns."""

    def __init__(self, context, counts):
        self.context, self.counts = context, counts

    def decode(self, packet):
        frames = self.context.decode(packet)
        self.counts += frames
        return frames

    def flush_buffers(self):
        self.context.flush_buffers()

    @property
    def skip_frame(self):
        return self.context.skip_frame

    @skip_frame.setter
    def skip_frame(self, value):
        self.context.skip_frame = value


@pytest.fixture
def decoded(monkeypatch):
    """The frames that decoders return, the ones that nobody takes among them."""
    counts, open_ = [], Decoder._open

    def counted(decoder):
        open_(decoder)
        decoder._context = CountedContext(decoder._context, counts)

    monkeypatch.setattr(Decoder, "_open", counted)
    monkeypatch.setattr("datamodules.video._threads", lambda: 1)
    return counts


@pytest.mark.parametrize("name", FILES)
def test_pictures_and_times_belong_together(tmp_path, name):
    path = write_like_the_web(tmp_path / name, 150, **FILES[name])
    with av.open(str(path)) as container:
        every = torch.stack([torch.from_numpy(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)])
    index, exact = read_file(path, ReadOptions())[0], open_video(path, two_a_second, as_it_is)
    for tolerance in (None, 0.1, 1.0):
        stream = open_video(path, two_a_second, as_it_is, near(tolerance))
        frames, seconds = stream.all_frames(), stream.seconds
        chosen = [index.seconds.index(second) for second in seconds.tolist()]
        assert torch.equal(frames, every[chosen]) and len(frames) == exact.num_frames and stream.about.warnings == []
        moved, facts = (seconds - exact.seconds).abs(), stream.about.facts
        assert bool((seconds.diff() > 0).all()) and float(moved.max()) <= facts["tolerance"] + 1e-6
        assert facts["moved"] == {"mean": round(float(moved.mean()), 3), "max": round(float(moved.max()), 3)}
        assert facts["decoded"] <= facts["decoded_if_exact"] and len(frames) <= facts["decoded"]
        assert torch.equal(torch.cat(list(stream.frames_at([1, 5]))), frames[[1, 5]]), "pictures that are drawn later"


@pytest.mark.parametrize("name", COUNTED)
def test_as_many_frames_are_decoded_as_were_counted(tmp_path, name, decoded):
    path = write_like_the_web(tmp_path / name, 150, **FILES[name])
    for options in (ReadOptions(), near(0.1), near(), near(1.0)):
        decoded.clear()
        stream = open_video(path, two_a_second, as_it_is, options)
        stream.all_frames()
        index = read_file(path, options)[0]
        chosen = [index.seconds.index(second) for second in stream.seconds.tolist()]
        assert len(decoded) == index.costs.decoded(chosen), options
    assert len(decoded) < 50, "canary: fewer than the 150 there are"


@pytest.mark.parametrize("name", AT_MOST)
def test_other_files_decode_at_most_what_was_counted(tmp_path, name, decoded):
    path = write_like_the_web(tmp_path / name, 150, **FILES[name])
    stream = open_video(path, two_a_second, as_it_is, NEAR)
    stream.all_frames()
    assert len(decoded) <= stream.about.facts["decoded"]


def test_frames_that_need_no_other_are_left_where_they_are(tmp_path):
    path = write_like_the_web(tmp_path / "a.mov", 60, **FILES["prores.mov"])
    facts = open_video(path, two_a_second, as_it_is, near(0.3)).about.facts
    assert facts["moved"] == {"mean": 0.0, "max": 0.0} and facts["decoded"] == facts["decoded_if_exact"]


def test_exact_is_the_default_and_has_no_new_facts(tmp_path):
    path = write_like_the_web(tmp_path / "a.mp4", 60)
    assert open_video(path, two_a_second, as_it_is).about.facts == {
        "rule": "constant rate",
        "file_fps": 24.0,
        "seconds": 2.5,
    }


def test_no_tolerance_is_exact(tmp_path):
    path = write_like_the_web(tmp_path / "a.mp4", 150, bf="3")
    frames, seconds = read_video(path, two_a_second, as_it_is)
    others, times = read_video(path, two_a_second, as_it_is, near(0))
    assert torch.equal(frames, others) and torch.equal(seconds, times)


def test_a_part_of_a_video_is_not_left(tmp_path):
    path = write_like_the_web(tmp_path / "a.mp4", 150, keys=48)
    seconds = open_video(path, two_a_second, as_it_is, near(1.0, start=2.4, end=5.2)).seconds
    whole = open_video(path, two_a_second, as_it_is, near(1.0)).seconds
    assert float(seconds[0]) >= 2.375 and float(seconds[-1]) < 5.2 and 2.0 in whole.tolist(), "canary: a key frame"


def test_one_wanted_frame_stays(tmp_path):
    path = write_like_the_web(tmp_path / "a.mp4", 30)
    assert open_video(path, lambda n, fps: [17], as_it_is, NEAR).seconds.tolist() == [pytest.approx(17 / 24)]


def test_a_decoder_that_stops_early_can_go_back_to_the_beginning(tmp_path, monkeypatch):
    """The fallback: a frame that a decoder which was emptied does not return is looked for in order."""
    path = write_like_the_web(tmp_path / "a.mp4", 96, bf="3")
    index = read_file(path, ReadOptions())[0]
    wanted = [index.times[i] for i in (0, 30, 70)]
    expected = torch.cat(list(decode_frames(index, wanted, as_it_is, 1)))
    ways = []

    def forgetful(decoder):
        ways.append(decoder._seeks)
        for item in decode(decoder):
            if not decoder._seeks or item[0] != wanted[1]:
                yield item

    decode = Decoder._decode
    monkeypatch.setattr(Decoder, "_decode", forgetful)
    assert torch.equal(torch.cat(list(decode_frames(index, wanted, as_it_is, 1))), expected)
    assert ways[0] and not ways[-1]


# -- the option


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_the_option(family):
    assert {"sampling", "tolerance"} <= {*family.numbers}


def test_settings_say_it_only_if_it_is_not_the_default():
    exact, cheap, wide = (
        family_of(DEMO, **o) for o in ({}, {"sampling": "near"}, {"sampling": "near", "tolerance": 2})
    )
    assert not {"sampling", "tolerance"} & {*exact.settings}
    assert cheap.identity["sampling"] == "near" and "tolerance" not in cheap.identity
    assert wide.identity == {**cheap.identity, "tolerance": 2}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"sampling": "nearest"}, "sampling must be one of exact, near, got 'nearest'"),
        ({"tolerance": 1.0}, 'a tolerance needs sampling "near": got tolerance 1 with "exact"'),
        ({"sampling": "near", "tolerance": -1}, "tolerance must be a number of seconds, at least 0, got -1"),
        ({"sampling": "near", "tolerance": float("nan")}, "at least 0, got nan"),
        ({"sampling": "near", "tolerance": "1"}, "at least 0, got '1'"),
    ],
)
def test_what_does_not_fit_is_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        family_of(DEMO, **options)


def test_a_session_and_a_run_take_the_cheap_frames(tmp_path):
    rows = write_needle_videos(tmp_path, videos=1, patches=32, questions=2)
    video = tmp_path / "needles_000.mp4"
    fs = FlexSelect.from_pretrained(DEMO, dtype="float32", device="cpu", sampling="near", tolerance=1.0)
    session = fs.open(video)
    shown = open_video(video, fs.family.sample, as_it_is, near(1.0))
    assert torch.equal(session.seconds, shown.seconds) and session.sampling["moved"]["max"] <= 1
    frames = np.zeros((4, 84, 84, 3), np.uint8)
    assert fs.open(frames).encode().grid[0] == 2, "frames in memory are taken as they are"
    words = [
        "predict",
        "--config",
        "configs/demo/self.yaml",
        "--data.annotations",
        str(rows),
        "--data.num_workers",
        "0",
    ]
    words += ["--trainer.enable_progress_bar", "false", "--output_dir", str(tmp_path / "out")]
    assert cli.main([*words, "--family.sampling", "near", "--family.tolerance", "1"]) == 0
    (row, _) = map(json.loads, (tmp_path / "out" / "predictions.jsonl").read_text().splitlines())
    assert row["sampling"]["decoded"] <= row["sampling"]["decoded_if_exact"] and row["sampling"]["tolerance"] == 1
    assert cli.main(words) == 2, "another run's folder"


@pytest.mark.parametrize("reader", ["decord", "torchcodec"])
def test_every_reader_takes_the_same_frames(tmp_path, reader):
    try:
        load_reader(reader)
    except ValueError as error:
        pytest.skip(str(error))
    path = write_like_the_web(tmp_path / "a.mp4", 150, bf="3")
    expected, stream = (
        stream_of_file(str(path), two_a_second, as_it_is, near(1.0, reader=name)) for name in ("pyav", reader)
    )
    assert torch.equal(stream.seconds, expected.seconds) and torch.equal(stream.all_frames(), expected.all_frames())
