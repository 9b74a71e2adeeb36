"""Every reader by name: the frames, times, warnings and errors of the default one, or an error that says what to do."""

import importlib
import itertools
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import cli
from datamodules.needles import write_needle_videos
from datamodules.question_data import VideoError
from datamodules.readers import stored_video
from datamodules.selector_training import SelectorDataModule
from datamodules.video import open_video, read_file
from datamodules.video_qa import VideoQADataModule
from flexselect import FlexSelect
from flexselect.families import Qwen25VL
from flexselect.families.inputs import resize_to_square
from flexselect.storage.feature_cache import FeatureCache
from flexselect.structures import readers
from flexselect.structures.frames import FrameStream, ReadOptions, stream_of, stream_of_file
from tests.datamodules import test_video as web
from tests.datamodules import test_video_files as field_files
from tests.datamodules.test_video import as_it_is, everything

READERS = ("decord", "torchcodec")
ADVICE = "; --data.reader pyav reads it"


@pytest.fixture(params=READERS)
def reader(request):
    """The name of a reader other than the default."""
    return usable(request.param)


def usable(name):
    try:
        readers.load_reader(name)
    except ValueError as error:
        pytest.skip(f"NOT CHECKED: {error}")
    return name


@dataclass
class Kind:
    """A kind of file: how it is made, and what another reader may make of it."""

    make: Callable[[Path], object]
    refused: dict[str, str] = field(default_factory=dict)  # reader -> why it cannot read the file, a pattern
    apart: float = 0.0  # mean difference of pixels that is allowed, of 255; 0: not a bit
    reading: dict[str, object] = field(default_factory=dict)


def both(reason):
    return dict.fromkeys(READERS, reason)


def of_the_web(name):
    return Kind(partial(web.write_like_the_web, count=150, **web.FILES[name]), dict(REFUSED.get(name, {})))


def not_read(container):
    return both(rf"it reads MP4, MOV, MKV, WebM and AVI right, but not {container}")


REFUSED = {
    "stream.ts": not_read("mpegts"),
    "television.ts": not_read("mpegts"),
    "disc.mpg": not_read("mpeg"),
    "windows.wmv": not_read("asf"),
    "av1.mp4": {"decord": "it does not know AV1"},
    "av1.mkv": {"decord": "it does not know AV1"},
}
FEWER = {"decord": r"it counts \d+ frames where the file shows \d+"}
TRACK = {"decord": "it cannot choose a track"}
# The libraries stretch pixels after the conversion to RGB, FFmpeg before it, with chroma at half the resolution. So
# pixels differ beside edges between colours, of which these tiny pictures consist.
STRETCHED = 5.0
# Chroma of 10 bits and of odd sizes is filtered by FFmpeg's general scaler, whose filter PyAV chooses otherwise.
CHROMA = 4.0
BURST = partial(field_files.write_at, times=field_files.BURST)
FORM = {name: partial(field_files.in_form, codec=c, form=f, size=s) for name, (c, f, s) in field_files.FORMS.items()}
PADDED = partial(field_files.with_aspect, count=40)  # decord knows no times of the first frames of a short MKV
KINDS = {
    **{name: of_the_web(name) for name in web.FILES},
    "burst.mp4": Kind(BURST),
    "burst.mkv": Kind(BURST),
    "burst.ts": Kind(BURST, not_read("mpegts")),
    "slides.mkv": Kind(partial(field_files.write_at, times=[0, 1000, 2000, 60_000, 120_000, 120_500])),
    "late.mkv": Kind(field_files.starts_late),
    "edit_list.mp4": Kind(field_files.with_edit_list, FEWER),
    "between_keys.ts": Kind(web.begun_between_keys, not_read("mpegts")),
    "joined.ts": Kind(web.joined, not_read("mpegts")),
    "b_frames.avi": Kind(
        partial(web.write_like_the_web, count=60, bf="3"),
        {"torchcodec": "frames without timestamps are not in the order that they are shown in"},
    ),
    "cut.mkv": Kind(partial(web.cut_short, left=0.6)),
    "cut.avi": Kind(partial(web.cut_short, left=0.6)),
    "cut.webm": Kind(partial(web.cut_short, left=0.6)),
    "one.mp4": Kind(partial(web.write, count=1)),
    "two.mp4": Kind(partial(web.write, count=2)),
    **{f"matrix{m}.mov": Kind(partial(field_files.with_matrix, matrix=m)) for m in field_files.MATRICES},
    "wide.mkv": Kind(partial(PADDED, aspect=Fraction(2)), apart=STRETCHED),
    "narrow.mkv": Kind(partial(PADDED, aspect=Fraction(1, 2)), apart=STRETCHED),
    "dvd.mkv": Kind(partial(PADDED, aspect=Fraction(10, 11)), apart=STRETCHED),
    "stored.mkv": Kind(partial(PADDED, aspect=Fraction(2)), reading={"square_pixels": False}),
    "alpha.mov": Kind(partial(field_files.transparent, codec="qtrle", form="argb"), both("it drops the transparency")),
    "alpha.webm": Kind(
        partial(field_files.transparent, codec="libvpx-vp9", form="yuva420p"), both("it drops the transparency")
    ),
    "ten_bits.mkv": Kind(FORM["10 bit"], apart=CHROMA),
    "full_chroma.mkv": Kind(partial(FORM["4:4:4"], count=40)),
    "full_range.mkv": Kind(FORM["full range"]),
    "odd.mkv": Kind(FORM["odd"], apart=CHROMA),
    "rgb.mkv": Kind(partial(FORM["rgb"], count=40)),
    "hdr.mp4": Kind(field_files.in_hdr),
    "still_first.mkv": Kind(partial(field_files.two_tracks, first=1), FEWER),
    "tracks.mkv": Kind(partial(field_files.two_tracks, first=20), TRACK),
    "second.mkv": Kind(partial(field_files.two_tracks, first=20), TRACK, reading={"track": 1}),
    "cover.mp4": Kind(field_files.with_cover),
    "animated.webp": Kind(partial(field_files.animated, duration=[500, 100, 900], lossless=True)),
    "animated.gif": Kind(partial(field_files.animated, duration=400), not_read("gif")),
    "part.mp4": Kind(partial(web.write, count=60), reading={"start": 1.5, "end": 4.0}),
}
CHOICES = {
    "all": everything,
    "some": lambda n, fps: range(0, n, 7),
    "few": lambda n, fps: range(min(5, n - 1), n, 60),
    "ends": lambda n, fps: sorted({0, min(1, n - 1), n // 2, n - 1}),
    "two a second": field_files.two_a_second,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Write each kind of file once."""
    folder = tmp_path_factory.mktemp("kinds")

    def path_of(name):
        if not (folder / name).exists():
            KINDS[name].make(folder / name)
        return folder / name

    return path_of


def opened(path, sample, reader, **reading):
    stream = stream_of_file(str(path), sample, as_it_is, ReadOptions(**reading, reader=reader))
    return stream, stream.all_frames()


@pytest.mark.parametrize("name", KINDS)
def test_frames_are_those_of_the_default_reader(made, reader, name):
    kind, path = KINDS[name], made(name)
    for choice, sample in CHOICES.items():
        expected, pictures = opened(path, sample, "pyav", **kind.reading)
        if reader in kind.refused:
            with pytest.raises(VideoError) as caught:
                opened(path, sample, reader, **kind.reading)
            message = f"{re.escape(str(path))}: cannot be read by {reader}: {kind.refused[reader]}{ADVICE}"
            assert re.fullmatch(message, str(caught.value)) and caught.value.warnings == expected.about.warnings
            continue
        stream, frames = opened(path, sample, reader, **kind.reading)
        assert torch.equal(stream.seconds, expected.seconds), choice
        assert stream.about.warnings == expected.about.warnings
        assert stream.about.facts == expected.about.facts | {"reader": reader}
        assert frames.shape == pictures.shape and frames.dtype == torch.uint8
        assert float((frames.int() - pictures.int()).abs().float().mean()) <= kind.apart, choice


def test_stretched_pictures_keep_their_corners(made, reader):
    """What the tolerance allows is no other picture."""
    for name in ("wide.mkv", "narrow.mkv", "dvd.mkv", "ten_bits.mkv", "odd.mkv"):
        assert field_files.corners(opened(made(name), everything, reader)[1][-1].numpy()) == "rgbw", name


@pytest.mark.parametrize("name", ["end.mp4", "end.ts"])
def test_a_cut_that_the_default_reader_forgives(tmp_path, reader, name):
    """Half of a last packet is an error elsewhere; it says who reads the rest."""
    path = web.cut_short(tmp_path / name, 0.6)
    assert opened(path, everything, "pyav")[0].num_frames > 40
    with pytest.raises(VideoError, match=r"--data\.reader pyav (reads it|may read more)$"):
        opened(path, everything, reader)


def broken_files(folder):
    yield from (web.bad_file(folder, kind) for kind in web.BAD)
    yield web.broken_within(folder / "broken.mp4")
    yield folder / "no_such_folder" / "a.mp4"


def test_bad_files_have_the_same_errors(tmp_path, reader):
    """The same type and words; only what the decoder itself says is another library's."""
    for path in broken_files(tmp_path):
        messages = []
        for name in ("pyav", reader):
            with pytest.raises(VideoError) as caught:
                opened(path, everything, name)
            messages.append(str(caught.value).partition("The decoder says:"))
        (expected, _, _), (message, _, words) = messages
        assert message == expected and str(path) in message
        assert not words or words.startswith(f" {reader}: "), words


def test_frames_that_are_not_those_of_the_index_are_noticed(made, reader, monkeypatch):
    """A canary: a library that counts or times other frames is not believed."""
    path = made("b_frames.mp4")
    index = read_file(path, ReadOptions())[0]
    if reader == "decord":
        monkeypatch.setattr("decord.VideoReader.__len__", lambda self: 149)
        reason = "it counts 149 frames where the file shows 150"
    else:
        early = replace(index, seconds=[second - 1 for second in index.seconds])
        monkeypatch.setattr("datamodules.video.read_index", lambda *_: early)
        reason = "it returns the frame at 0.000 seconds instead of -1.000"
    with pytest.raises(VideoError, match=f"cannot be read by {reader}: {re.escape(reason)}"):
        opened(path, everything, reader)


@pytest.mark.parametrize("name", ["hevc.mp4", "open_gop.mkv", "fragments.mp4"])
def test_decord_alone_would_return_other_frames(made, name):
    """A canary: without what is done about its seeking, these files are read wrongly; others are sought in."""
    decord = pytest.importorskip("decord", reason="NOT CHECKED: no decord here")
    from datamodules.readers.decord_frames import DecordFrames

    wanted = [*range(0, 150, 7)]
    alone = decord.VideoReader(str(made(name)), num_threads=1).get_batch(wanted).asnumpy()
    _, frames = opened(made(name), lambda n, fps: wanted, "pyav")
    assert not np.array_equal(alone, frames.numpy())
    seeks = [DecordFrames(read_file(made(n), ReadOptions())[0], frozenset())._seeks for n in (name, "b_frames.mp4")]
    assert seeks == [False, True]


def test_decord_may_not_repeat_frames(made):
    """A canary: by default it does, in silence."""
    decord = pytest.importorskip("decord", reason="NOT CHECKED: no decord here")
    from datamodules.readers.decord_frames import NO_REPEATED_FRAME

    path = str(made("edit_list.mp4"))
    frames = decord.VideoReader(path).get_batch(range(96)).asnumpy()
    assert sum(np.array_equal(one, other) for one, other in itertools.pairwise(frames)) == 20
    with pytest.raises(decord.DECORDLimitReachedError):
        decord.VideoReader(path, fault_tol=NO_REPEATED_FRAME).get_batch(range(96))


# -- on a GPU


@pytest.fixture
def gpu(monkeypatch):
    """A machine that says it has a GPU; frames are decoded on the CPU, and the device that was asked for is kept."""
    usable("torchcodec")
    module = pytest.importorskip("datamodules.readers.torchcodec_frames")
    asked = []

    def decoder(*arguments, device, **options):
        asked.append(device)
        return VideoDecoder(*arguments, device="cpu", **options)

    VideoDecoder = module.VideoDecoder
    monkeypatch.setattr(module, "VideoDecoder", decoder)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 1)
    return asked


def test_torchcodec_without_ffmpeg_is_refused(monkeypatch):
    """Importing it works without FFmpeg, since it decodes pictures too."""
    monkeypatch.setitem(sys.modules, "torchcodec", SimpleNamespace(Frame=object, ffmpeg_major_version=None))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", SimpleNamespace(VideoDecoder=object))
    monkeypatch.delitem(sys.modules, "datamodules.readers.torchcodec_frames", raising=False)
    with pytest.raises(ImportError, match="finds no FFmpeg"):
        importlib.import_module("datamodules.readers.torchcodec_frames")


def test_a_gpu_decodes_where_there_is_one(made, gpu, monkeypatch):
    """One decoder, on this process's GPU; a data loader's worker has none."""
    stream, frames = opened(made("b_frames.mp4"), everything, "torchcodec")
    assert gpu == ["cuda:1"] and stream.about.facts["decoded_on"] == "cuda:1"
    assert torch.equal(frames, opened(made("b_frames.mp4"), everything, "pyav")[1])
    monkeypatch.setattr("datamodules.readers.torchcodec_frames.get_worker_info", lambda: SimpleNamespace())
    stream, _ = opened(made("b_frames.mp4"), everything, "torchcodec")
    assert set(gpu[1:]) == {"cpu"} and "decoded_on" not in stream.about.facts


def test_pictures_are_turned_and_stretched_where_they_lie(made):
    """On any device: nothing asks for the CPU, as the meta device would refuse."""
    index = read_file(made("matrix(0, 1, -1, 0).mov"), ReadOptions())[0]
    wide = SimpleNamespace(pixel_aspect=Fraction(2), matrix=index.matrix)
    shown = stored_video.to_shown(torch.empty(32, 64, 3, dtype=torch.uint8, device="meta"), wide, True)
    assert shown.shape == (128, 32, 3) and shown.device.type == "meta"
    assert resize_to_square(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), 4).shape == (1, 4, 4, 3)


# -- by name


@pytest.fixture
def third_party(monkeypatch):
    """A reader of another package, which keeps what it is called with."""
    calls = []

    def read(path, sample, resize, *options) -> FrameStream:
        calls.append((path, *options))
        frames = torch.full((4, 56, 56, 3), 9, dtype=torch.uint8)
        return stream_of(frames[sample(4, 2.0)], torch.arange(4) / 2, resize)

    entry = SimpleNamespace(name="tape", load=lambda: read)
    installed = {**readers.installed_readers(), "tape": entry}
    monkeypatch.setattr(readers, "installed_readers", lambda: installed)
    readers.load_reader.cache_clear()
    yield calls
    readers.load_reader.cache_clear()


def test_an_unknown_reader_is_refused_at_once(checkpoint, capsys):
    message = "there is no video reader decrod; did you mean decord? Installed are decord, pyav, torchcodec"
    with pytest.raises(ValueError, match=re.escape(message)):
        ReadOptions(reader="decrod")
    assert cli.main(["predict", "--config", "demo/self", "--data.reader", "decrod"]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    with pytest.raises(ValueError, match=r"no video reader other\. Installed are"):
        VideoQADataModule(Qwen25VL(str(checkpoint)), video="a.mp4", question="Q?", reader="other")


def test_a_reader_whose_package_is_missing_says_what_to_install(monkeypatch):
    def load():
        raise ImportError("tape is not installed: run `pip install tape`")

    monkeypatch.setattr(readers, "installed_readers", lambda: {"tape": SimpleNamespace(load=load)})
    with pytest.raises(ValueError, match="the video reader tape cannot be used: tape is not installed: run `pip"):
        ReadOptions(reader="tape")
    monkeypatch.setattr(readers, "installed_readers", dict)
    readers.load_reader.cache_clear()
    with pytest.raises(RuntimeError, match="no video reader is installed"):
        stream_of_file("a.mp4", everything, as_it_is)


def test_a_reader_of_another_package_is_called_as_before(third_party, checkpoint, tmp_path):
    """With three arguments, and with the options if any but its name differs; by sessions and by all data modules."""
    fs = FlexSelect.from_pretrained(str(checkpoint), dtype="float32", device="cpu", selector="self")
    session = fs.open("a.tape", reader="tape")
    fs.open("a.tape", reader="tape", start=1)
    assert third_party == [("a.tape",), ("a.tape", ReadOptions(1.0, reader="tape"))]
    assert session.options.reader == "tape" and session.encode().grid[0] == 2
    (tmp_path / "a.tape").touch()
    family, words = Qwen25VL(str(checkpoint)), {"question": "Q?", "reader": "tape"}
    data = VideoQADataModule(family, video=str(tmp_path / "a.tape"), **words)
    (item,) = data.predict_dataloader()
    assert item.error is None and item.stream.num_frames == 4
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"video": "a.tape", "question": "Q?", "answer": "A."}\n')
    (clips,) = SelectorDataModule(family, str(rows), num_workers=0, reader="tape").predict_dataloader()
    assert len(clips) == 1 and clips[0].prompt is not None
    assert [path for path, *_ in third_party[2:]] == [str(tmp_path / "a.tape")] * 2


def test_the_default_changes_no_key_of_a_cache(tmp_path):
    """What version 0.1 and 0.2 wrote is found again; another reader's features are others."""
    assert repr(ReadOptions(1.0)) == "ReadOptions(start=1.0, end=None, track=None, square_pixels=True)"
    assert ReadOptions().settings == {} and ReadOptions(reader="decord").settings == {"reader": "decord"}
    (tmp_path / "a.mp4").touch()
    cache = FeatureCache(tmp_path / "cache", 1, {})
    readings = [ReadOptions(start, reader=name) for start in (None, 1.0) for name in ("pyav", "decord")]
    assert len({cache._file(tmp_path / "a.mp4", reading) for reading in readings}) == 4


def test_a_run_and_a_session_with_a_reader(reader, tmp_path, monkeypatch):
    """The answers are the default reader's, and the row says who read."""
    monkeypatch.chdir(Path(__file__).parents[2])
    write_needle_videos(tmp_path, videos=1, patches=6, needles=3, questions=1, seed=1)
    words = ["predict", "--config", "configs/demo/self.yaml", "--data.annotations", str(tmp_path / "annotations.jsonl")]
    rows = []
    for name in ("pyav", reader):
        out = tmp_path / name
        assert cli.main([*words, "--output_dir", str(out), "--data.reader", name]) == 0
        rows.append((out / "predictions.jsonl").read_text())
        assert ('"reader"' in (out / "settings.json").read_text()) is (name != "pyav")
    assert f'"reader": "{reader}"' in rows[1] and '"reader"' not in rows[0]
    assert re.search('"answer": "[^"]*"', rows[0])[0] in rows[1]
    assert cli.main([*words, "--output_dir", str(tmp_path / reader)]) == 2, "another reader is another run"


def test_open_video_takes_any_source(made):
    """The seam that readers of other packages can use: the index is ours, the pictures are theirs."""

    class Black:
        def __init__(self, index, wanted, square_pixels):
            assert wanted == {0, 512} and square_pixels

        def frame(self, time):
            return torch.full((2, 2, 3), time // 512, dtype=torch.uint8)

        def close(self):
            pass

    stream = open_video(made("b_frames.mp4"), lambda n, fps: [0, 1], as_it_is, make_source=Black, max_threads=1)
    assert stream.all_frames().flatten(1).float().mean(1).tolist() == [0, 1]
