"""Videos as they are: their clocks, their pixels, their tracks, their names."""

import struct
import tracemalloc
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from PIL import Image

from datamodules.video import VideoError, open_video, probe, read_file, read_video
from datamodules.video_files.decoding import Decoder
from datamodules.video_files.geometry import make_upright, usable_aspect
from datamodules.video_files.packets import MISSING, _Packets
from datamodules.video_files.truncation import promised_size
from flexselect.families.inputs import even_frames
from flexselect.storage.video_paths import explain_unreadable, is_url, list_videos, resolve_path
from flexselect.structures.frames import ReadOptions, VideoFacts
from tests.datamodules.test_video import as_it_is, everything, frames_in_order, write_like_the_web


def grey(value, height=48, width=64):
    return np.full((height, width, 3), value, np.uint8)


def write_at(path, times, unit=Fraction(1, 1000), codec="libx264", frames=None, **more):
    """A frame at each of some times, in `unit` seconds; brighter and brighter."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=more.pop("rate", 25), options=more.pop("options", {}))
        stream.height, stream.width, stream.pix_fmt = more.pop("height", 48), more.pop("width", 64), "yuv420p"
        stream.time_base = stream.codec_context.time_base = unit
        for number, time in enumerate(times):
            picture = frames[number] if frames else grey(20 + 200 * number // len(times))
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def as_webm(source, target):
    """Write a video again as VP8."""
    with av.open(str(source)) as container:
        video = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video)]
        height, width = frames[0].shape[:2]
        times = [round(1000 * number / video.average_rate) for number in range(len(frames))]
    rate, options = round(video.average_rate), {"deadline": "realtime", "crf": "20", "b": "1M"}
    return write_at(
        target, times, codec="libvpx", frames=frames, rate=rate, height=height, width=width, options=options
    )


def two_a_second(num_frames, fps):
    return even_frames(num_frames, fps, 2.0, 1024)


# -- time

BURST = [*range(0, 1000, 20), *range(1000, 20000, 500)]  # fifty a second, then two


@pytest.mark.parametrize("name", ["burst.mp4", "burst.mkv", "burst.ts"])
def test_frames_of_a_variable_rate_are_chosen_by_time(tmp_path, name):
    path = write_at(tmp_path / name, BURST)
    stream = open_video(path, two_a_second, as_it_is)
    gaps = stream.seconds.diff()
    assert stream.about.facts["rule"] == "variable rate" and 36 <= stream.num_frames <= 40
    assert float(gaps.max()) < 0.6 and float(gaps.min()) > 0.4
    by_number = even_frames(len(BURST), len(BURST) / 20, 2.0, 1024)
    assert sum(BURST[i] < 1000 for i in by_number) > 15, "canary: counted, half of them lie in the first second"


def test_of_a_few_frames_far_apart_each_is_taken_once(tmp_path):
    times = [0, 1000, 2000, 60_000, 120_000, 120_500]
    index = read_file(write_at(tmp_path / "slides.mkv", times), ReadOptions())[0]
    assert index.choose(two_a_second) == list(range(6)) and not index.is_steady
    assert index.choose(lambda n, fps: range(0, n, max(1, round(10 * fps)))) == [0, 2, 3, 4], "one in ten seconds"


def test_a_constant_rate_is_counted_as_published(tmp_path):
    """With the header's own number, in containers that round to milliseconds, too."""
    asked = []

    def sample(num_frames, fps):
        asked.append((num_frames, fps))
        return [0, 2, 3]

    path = write_like_the_web(tmp_path / "a.mkv", 50)
    assert read_file(path, ReadOptions())[0].choose(sample) == [0, 2, 3] and asked == [(50, 24.0)]


def test_a_header_that_is_wrong_is_told_and_not_believed(tmp_path, caplog):
    def sample(num_frames, fps):
        assert num_frames == 20 and fps == pytest.approx(2.0, rel=1e-3)
        return range(20)

    path = write_at(tmp_path / "camera.ts", range(0, 500, 25), Fraction(1, 50))
    stream = open_video(path, sample, as_it_is)
    assert stream.about.warnings == [
        "its header says 50 frames a second, its timestamps 2: frames are chosen by the timestamps"
    ]
    assert "camera.ts: its header says 50" in caplog.text and probe(path).seconds == pytest.approx(10)


def starts_late(path):
    noise = [np.random.default_rng(i).integers(0, 255, (48, 64, 3), np.uint8) for i in range(100)]
    return write_at(path, range(3_600_000, 3_650_000, 500), rate=2, frames=noise)


def test_times_begin_with_the_video_and_the_files_own_is_kept(tmp_path):
    path = starts_late(tmp_path / "late.mkv")
    stream = open_video(path, everything, as_it_is)
    assert stream.seconds.tolist() == [i / 2 for i in range(100)] and stream.about.facts["starts_at"] == 3600
    assert stream.about.warnings == []
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    output = open_video(cut, everything, as_it_is).about.warnings
    assert any(warning.startswith("its last frame is at") for warning in output), output


def with_edit_list(path):
    """Cut without encoding: the first frames that are shown are built on some that are not."""
    whole = write_like_the_web(path.with_name("whole.mp4"), 96, keys=48, bf="2")
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.pts, packet.dts = (time - 20 * 512 for time in (packet.pts, packet.dts))
                packet.stream = stream
                target.mux(packet)
    return path


def test_what_an_edit_list_hides_is_hidden_and_nothing_else(tmp_path):
    path, whole = with_edit_list(tmp_path / "cut.mp4"), tmp_path / "whole.mp4"
    every, (frames, seconds) = frames_in_order(path), read_video(path, everything, as_it_is)
    assert len(every) < 96 and torch.equal(frames, every) and float(seconds[0]) == 0
    assert torch.equal(every, frames_in_order(whole)[-len(every) :]), "canary: it is the end of the other"


def test_a_part_is_sampled_like_a_file_and_keeps_its_times(tmp_path):
    path = write_at(tmp_path / "a.mp4", range(0, 10_000, 100), rate=10)
    stream = open_video(path, two_a_second, as_it_is, ReadOptions(start=2, end=6))
    assert stream.num_frames == 8 and (float(stream.seconds[0]), float(stream.seconds[-1])) == (2.0, 5.9)
    frames, _ = read_video(path, two_a_second, as_it_is, ReadOptions(start=2, end=6))
    whole, _ = read_video(path, everything, as_it_is)
    assert torch.equal(frames, whole[[round(10 * float(second)) for second in stream.seconds]])
    late = open_video(path, two_a_second, as_it_is, ReadOptions(start=8, end=60))
    assert late.about.warnings == ["ends at 10.0 seconds, before the second 60 that was asked for"]
    with pytest.raises(VideoError, match=r"has no second 10: it is 10\.0 seconds long"):
        open_video(path, two_a_second, as_it_is, ReadOptions(start=10))
    for start, end in ((3, 3), (-1, None), (5, 2)):
        with pytest.raises(ValueError, match="a part of a video needs 0 <= start < end in seconds"):
            ReadOptions(start, end)


@pytest.mark.parametrize("places", [[0], [3, 4, 9], [11]])
def test_pictures_read_the_frames_that_the_model_saw(tmp_path, places):
    """Of a variable rate, too, where a place among the frames looked at is no simple function of the rule."""
    path = write_at(tmp_path / "burst.mkv", BURST)
    stream = open_video(path, two_a_second, as_it_is)
    assert torch.equal(torch.cat(list(stream.frames_at(places))), stream.all_frames()[places])
    plain = type(stream)(stream.num_frames, stream.seconds, stream.read)
    assert torch.equal(torch.cat(list(plain.frames_at(places))), stream.all_frames()[places]), "of any reader"


# -- decoding


def test_a_decoder_that_loses_frames_is_not_told_to_leave_any_out(tmp_path, monkeypatch):
    """As libdav1d did: a speed option that a codec takes once and for all."""
    path = write_like_the_web(tmp_path / "a.mp4", 60, bf="3")
    index = read_file(path, ReadOptions())[0]
    expected = frames_in_order(path)[5::17]
    decode, opened = Decoder._decode, []

    def stubborn(decoder):
        opened.append(decoder._skips)
        for shown, frame in decode(decoder):
            if not decoder._skips or shown in index.times[:12:4]:
                yield shown, frame

    monkeypatch.setattr(Decoder, "_decode", stubborn)
    monkeypatch.setattr("datamodules.video._threads", lambda: 1)
    assert torch.equal(read_video(path, lambda n, fps: range(5, n, 17), as_it_is)[0], expected)
    assert opened[0] and not opened[-1], "it was tried, and given up"


def test_a_frame_that_is_not_there_is_shown_as_the_one_before(tmp_path, monkeypatch):
    path = write_like_the_web(tmp_path / "a.mp4", 60)
    every = frames_in_order(path)
    index = read_file(path, ReadOptions())[0]
    decode = Decoder._decode

    def without(*places):
        lost = {index.times[place] for place in places}

        def lossy(decoder):
            yield from ((shown, frame) for shown, frame in decode(decoder) if shown not in lost)

        monkeypatch.setattr(Decoder, "_decode", lossy)
        return open_video(path, everything, as_it_is)

    stream = without(20)
    assert torch.equal(stream.all_frames(), every[[*range(20), 19, *range(21, 60)]])
    assert stream.about.warnings == ["1 of 60 frames have no picture: the frame before is shown instead"]
    assert torch.equal(without(0).all_frames(), every[[1, *range(1, 60)]])
    with pytest.raises(VideoError, match=r"a\.mp4: cannot be decoded .*frames 20, 30, 40, \.\.\. are missing"):
        without(20, 30, 40).all_frames()


# -- geometry


def quarters():
    """Red, green, blue and white, clockwise from the upper left."""
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:16, :32], picture[:16, 32:] = (255, 0, 0), (0, 255, 0)
    picture[16:, 32:], picture[16:, :32] = (0, 0, 255), (255, 255, 255)
    return picture


def corners(frame):
    """Names of the colours of a picture's quarters, clockwise."""
    height, width = frame.shape[:2]
    names = {(1, 0, 0): "r", (0, 1, 0): "g", (0, 0, 1): "b", (1, 1, 1): "w", (0, 0, 0): "-"}
    places = ((1, 1), (1, 3), (3, 3), (3, 1))
    return "".join(names[tuple((frame[height * y // 4, width * x // 4] > 127).astype(int))] for y, x in places)


MATRICES = {  # as players show them: the picture of a stored (p, q) is at (a p + c q, b p + d q)
    (1, 0, 0, 1): "rgbw",
    (0, 1, -1, 0): "wrgb",
    (-1, 0, 0, -1): "bwrg",
    (0, -1, 1, 0): "gbwr",
    (-1, 0, 0, 1): "grwb",
    (1, 0, 0, -1): "wbgr",
    (0, 1, 1, 0): "rwbg",
    (0, -1, -1, 0): "bgrw",
}


@pytest.mark.parametrize(("matrix", "expected"), MATRICES.items())
def test_turned_and_mirrored(matrix, expected):
    shown = make_upright(quarters(), matrix)
    assert corners(shown) == expected
    assert shown.shape[:2] == ((32, 64) if matrix[0] else (64, 32))
    assert make_upright(quarters(), None) is not None and corners(make_upright(quarters(), None)) == "rgbw"


def with_matrix(path, matrix):
    """Written into the track header, where cameras write it."""
    write_at(path, [0, 40, 80], frames=[quarters()] * 3, height=32)
    a, b, c, d = (65536 * value for value in matrix)
    plain = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    data = path.read_bytes()
    at = data.index(plain, data.index(b"tkhd"))
    path.write_bytes(data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + 36 :])
    return path


@pytest.mark.parametrize(
    ("matrix", "expected"), [((-1, 0, 0, 1), "grwb"), ((1, 0, 0, -1), "wbgr"), ((0, 1, 1, 0), "rwbg")]
)
def test_mirrors_of_a_file(tmp_path, matrix, expected):
    path = with_matrix(tmp_path / "a.mov", matrix)
    assert corners(read_video(path, everything, as_it_is)[0][0].numpy()) == expected


def with_aspect(path, aspect, count=3):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv420p"
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        for _ in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(quarters(), format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("aspect", "width"), [(Fraction(2), 128), (Fraction(1, 2), 32), (Fraction(10, 11), 58), (None, 64)]
)
def test_pixels_are_made_square(tmp_path, aspect, width):
    with_aspect(tmp_path / "a.mkv", aspect)
    frames, _ = read_video(tmp_path / "a.mkv", everything, as_it_is)
    assert frames.shape == (3, 32, width, 3) and corners(frames[0].numpy()) == "rgbw"
    assert (probe(tmp_path / "a.mkv").height, probe(tmp_path / "a.mkv").width) == (32, width)
    stored, _ = read_video(tmp_path / "a.mkv", everything, as_it_is, ReadOptions(square_pixels=False))
    assert stored.shape == (3, 32, 64, 3)


@pytest.mark.parametrize("broken", [Fraction(0), Fraction(1, 65535), Fraction(65535), None])
def test_an_aspect_that_cannot_be_meant_is_left_alone(broken):
    assert usable_aspect(broken) == 1


def transparent(path, codec, form):
    picture = np.concatenate([quarters(), np.full((32, 64, 1), 255, np.uint8)], -1)
    picture[:16, :32, 3] = 0  # the red one
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 64, form
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgba").reformat(format=form)))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(("name", "codec", "form"), [("a.mov", "qtrle", "argb"), ("a.webm", "libvpx-vp9", "yuva420p")])
def test_what_is_transparent_is_black(tmp_path, name, codec, form):
    transparent(tmp_path / name, codec, form)
    assert corners(read_video(tmp_path / name, everything, as_it_is)[0][1].numpy()) == "-gbw"


FORMS = {
    "10 bit": ("libx265", "yuv420p10le", (32, 64)),
    "4:4:4": ("libx264", "yuv444p", (32, 64)),
    "full range": ("mjpeg", "yuvj420p", (32, 64)),
    "odd": ("ffv1", "yuv420p", (33, 65)),
    "rgb": ("libx264rgb", "rgb24", (32, 64)),
}


def in_form(path, codec, form, size, count=3):
    picture = np.asarray(Image.fromarray(quarters()).resize(size[::-1], Image.Resampling.NEAREST))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options={"x265-params": "log-level=none"})
        (stream.height, stream.width), stream.pix_fmt = size, form
        for _ in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(("codec", "form", "size"), FORMS.values(), ids=FORMS)
def test_colours_are_the_same_in_every_form(tmp_path, codec, form, size):
    in_form(tmp_path / "a.mkv", codec, form, size)
    frames, _ = read_video(tmp_path / "a.mkv", everything, as_it_is)
    assert frames.shape == (3, *size, 3) and corners(frames[1].numpy()) == "rgbw"
    apart = np.abs(frames[1].numpy()[4:12, 4:12].astype(int) - (255, 0, 0)).max()
    assert apart <= 12, "pure red, but for what the encoder loses"


def in_hdr(path):
    params = "log-level=none:transfer=smpte2084:colorprim=bt2020:colormatrix=bt2020nc"
    return write_at(path, [0, 40, 80], codec="libx265", options={"x265-params": params})


def test_hdr_says_what_is_done(tmp_path):
    path = in_hdr(tmp_path / "a.mp4")
    assert open_video(path, everything, as_it_is).about.warnings == [
        "is HDR (PQ): its frames are taken without tone mapping"
    ]


# -- tracks and names

NO_FLAG = Disposition(0)


def two_tracks(path, flags=(NO_FLAG, NO_FLAG), first=2):
    """The first track has `first` white frames, the second 20 black ones."""
    with av.open(str(path), "w") as container:
        streams = []
        for flag in flags:
            stream = container.add_stream("mpeg4", rate=10)
            stream.height, stream.width, stream.pix_fmt, stream.disposition = 48, 64, "yuv420p", flag.value
            streams.append(stream)
        for stream, value, count in zip(streams, (255, 0), (first, 20)):
            for _ in range(count):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(grey(value), format="rgb24")))
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("first", "flags", "track"),
    [
        (1, (NO_FLAG, NO_FLAG), 1),  # a still picture
        (1, (Disposition.default, NO_FLAG), 1),
        (20, (NO_FLAG, NO_FLAG), 0),
        (20, (NO_FLAG, Disposition.default), 1),
    ],
)
def test_the_track_that_players_show(tmp_path, first, flags, track):
    path = two_tracks(tmp_path / "a.mkv", flags, first)
    stream = open_video(path, everything, as_it_is)
    assert float(stream.all_frames().float().mean()) == pytest.approx(255 * (track == 0), abs=3)
    assert stream.about.facts.get("track", 0) == track
    assert any("has 2 moving video tracks" in warning for warning in stream.about.warnings) is (first > 2)


def with_cover(path):
    with av.open(str(path), "w") as container:
        streams = [container.add_stream(codec, rate=10) for codec in ("mjpeg", "libx264")]
        for stream, form in zip(streams, ("yuvj420p", "yuv420p")):
            stream.height, stream.width, stream.pix_fmt = 48, 64, form
        streams[0].disposition = Disposition.attached_pic.value  # PyAV 15 takes a number alone
        for stream, value, count in zip(streams, (255, 0), (1, 20)):
            for _ in range(count):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(grey(value), format="rgb24")))
            container.mux(stream.encode())
    return path


def test_a_cover_is_not_the_video(tmp_path):
    path = with_cover(tmp_path / "a.mp4")
    with av.open(str(path)) as container:
        covers = [stream.index for stream in container.streams.video if stream.disposition & Disposition.attached_pic]
    assert len(covers) == 1, "canary"
    assert float(read_video(path, everything, as_it_is)[0].float().mean()) < 3


def test_a_track_by_its_number(tmp_path):
    path = two_tracks(tmp_path / "a.mkv", first=20)
    for track, value in ((0, 255), (1, 0)):
        stream = open_video(path, everything, as_it_is, ReadOptions(track=track))
        assert float(stream.all_frames().float().mean()) == pytest.approx(value, abs=3) and not stream.about.warnings
        assert not [one for one in stream.about.warnings if "cut short" in one]
    with pytest.raises(VideoError, match=r"a\.mkv: has no video track 2: it has 2, counted from 0"):
        open_video(path, everything, as_it_is, ReadOptions(track=2))
    with pytest.raises(ValueError, match="track must be at least 0"):
        ReadOptions(track=-1)


def animated(path, duration, **more):
    pictures = [Image.fromarray(grey(value)) for value in (0, 100, 200)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=duration, **more)
    return path


def test_an_animated_webp_is_read_frame_by_frame(tmp_path):
    animated(tmp_path / "a.webp", [500, 100, 900], lossless=True)
    frames, seconds = read_video(tmp_path / "a.webp", everything, as_it_is)
    assert frames.float().mean((1, 2, 3)).tolist() == [0, 100, 200] and seconds.tolist() == [0, 0.5, 0.6]
    Image.fromarray(grey(100)).save(tmp_path / "still.webp")
    frames, _ = read_video(tmp_path / "still.webp", everything, as_it_is)
    assert len(frames) == 1 and float(frames.float().mean()) == pytest.approx(100, abs=2)
    (tmp_path / "cut.webp").write_bytes((tmp_path / "a.webp").read_bytes()[:90])
    with pytest.raises(VideoError, match=r"cut\.webp"):
        read_video(tmp_path / "cut.webp", everything, as_it_is)


def test_an_animated_gif_too(tmp_path):
    animated(tmp_path / "a.gif", 400)
    frames, seconds = read_video(tmp_path / "a.gif", everything, as_it_is)
    assert len(frames) == 3 and seconds.tolist() == pytest.approx([0, 0.4, 0.8])


def test_titles_of_any_encoding(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "Cafeteria"
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(grey(90), format="rgb24")))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes().replace(b"Cafeteria", b"Caf\xe9teria"))
    assert len(read_video(path, everything, as_it_is)[0]) == 1


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_a_short_track_beside_a_long_one_is_not_cut(tmp_path, name):
    path = two_tracks(tmp_path / name, first=5)
    for track in (0, 1):
        assert not open_video(path, everything, as_it_is, ReadOptions(track=track)).about.warnings


def test_names_are_shown_as_they_can_be(tmp_path):
    with pytest.raises(VideoError, match=r"^http://example\.org/a\.mp4: addresses on a network are not read"):
        probe(resolve_path("http://example.org/a.mp4"))
    with pytest.raises(VideoError, match=r"a\\x00b\.mp4: cannot be opened"):
        probe(tmp_path / "a\0b.mp4")


def test_a_folder_that_may_not_be_entered_is_told_with_what_to_do(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("flexselect.storage.video_paths.Path.stat", refuse)  # root may enter every folder
    assert "`chmod +x` that" in explain_unreadable(tmp_path / "a.mp4")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = write_at(tmp_path / "a.mp4", [0, 40])
    monkeypatch.setattr(
        "flexselect.storage.video_paths.os.access", lambda path, mode: False
    )  # root may read everything
    with pytest.raises(VideoError, match=r"a\.mp4: may not be read: permission denied"):
        probe(path)


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.avi", "a.webm"])
def test_a_cut_is_seen_by_the_container(tmp_path, name):
    codec = {"a.avi": "mpeg4", "a.webm": "libvpx"}.get(name, "libx264")
    path = write_like_the_web(tmp_path / name, 48, codec=codec)
    size = path.stat().st_size
    assert promised_size(path) == size
    cut = tmp_path / f"cut.{name}"
    cut.write_bytes(path.read_bytes()[: size - 200])
    assert promised_size(cut) == size
    if name not in ("a.mp4",):  # whose index is at its end
        assert any("is cut short: " in warning for warning in open_video(cut, everything, as_it_is).about.warnings)


def test_what_is_no_container_promises_nothing(tmp_path):
    for number, content in enumerate(
        [b"", b"text" * 9, b"\x1a\x45\xdf\xa3", b"RIFF\0\0\0\0AVI ", b"\0\0\0\x10ftyp" + b"x" * 40]
    ):
        (tmp_path / str(number)).write_bytes(content)
        assert promised_size(tmp_path / str(number)) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.mp4", "root/a.mp4"),
        ("/x/a.mp4", "/x/a.mp4"),
        ("12:30.mp4", "root/12:30.mp4"),
        ("file:///x/a%20b#?.mp4", "/x/a b#?.mp4"),
        ("file://localhost/x/a.mp4", "/x/a.mp4"),
        ("file:a.mp4", "root/a.mp4"),
        ("~/a.mp4", "/home/me/a.mp4"),
        ("~nobody-of-this-name/a.mp4", "root/~nobody-of-this-name/a.mp4"),
        ("https://x.org/a.mp4", "https:/x.org/a.mp4"),
    ],
)
def test_what_a_name_means(monkeypatch, name, expected):
    monkeypatch.setenv("HOME", "/home/me")
    assert str(resolve_path(name, "root")) == expected and is_url(resolve_path(name, "root")) == name.startswith(
        "https"
    )


def test_a_folder_and_a_pattern(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.mp4", "a.MKV", "sub/c.webm", "._b.mp4", "notes.txt", "[x].mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    assert [str(Path(name)) for name in list_videos(".")] == ["[x].mp4", "a.MKV", "b.mp4", "sub/c.webm"]
    assert list_videos("*.mp4") == ["[x].mp4", "b.mp4"] and list_videos("[x].mp4") == ["[x].mp4"]
    (tmp_path / "sub" / "circle").symlink_to(tmp_path)
    assert len(list_videos(".")) == 4
    assert list_videos("**/*.webm")[:1] == ["sub/c.webm"] and list_videos("nowhere.mp4") == ["nowhere.mp4"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="the folder has no video"):
        list_videos("empty")
    with pytest.raises(ValueError, match="the name of the video is empty"):
        list_videos(" ")


def test_facts_are_of_one_stream_each():
    assert VideoFacts().warnings is not VideoFacts().warnings


def test_a_codec_that_nobody_knows(tmp_path):
    """A flipped byte in the name of the codec, or one that is younger than this FFmpeg."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(grey(255), format="rgb24")))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(ValueError, match=r"a\.mp4.*codec that FFmpeg does not know"):
        open_video(path, everything, as_it_is)


@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_an_animations_last_picture_has_its_own_time(tmp_path, ending):
    pictures = [Image.new("RGB", (56, 56), (60 * i, 200 - 60 * i, 0)) for i in range(4)]
    times = [100, 100, 100, 2000]  # milliseconds
    pictures[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=pictures[1:], duration=times)
    assert probe(tmp_path / f"a.{ending}").seconds == pytest.approx(2.3, abs=0.02)
    if ending == "gif":
        pictures[0].save(tmp_path / "alike.gif", save_all=True, append_images=pictures[1:], duration=400)
        assert probe(tmp_path / "alike.gif").seconds == pytest.approx(1.6, abs=0.02)


def test_the_index_of_hours_is_small():
    """Eight hours have a million packets. As tuples of Python's numbers they took 400 MB."""
    packets, count = _Packets(), 20_000
    tracemalloc.start()
    for i in range(count):
        times = {"pts": None if i == 5 else 512 * i, "dts": 512 * i, "duration": 512}
        packets.add(SimpleNamespace(**times, is_keyframe=i == 3, is_discard=i == 7), is_reference=i % 2 == 0)
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert size < 40 * count
    assert packets.shown[:5].tolist() == [3, 4, 5, 6, 8] and packets.shown[-1] == count - 1
    assert packets.of_shown(packets.pts)[:3].tolist() == [512 * 3, 512 * 4, MISSING]


@pytest.mark.parametrize("change", [Path.unlink, lambda path: write_at(path, range(0, 900, 40))])
def test_a_file_that_changes_while_it_is_open_is_not_read_on(change, tmp_path):
    """A session reads frames at any later question: those of another file would be answered from in silence."""
    path = write_at(tmp_path / "a.mp4", range(0, 400, 40))
    stream = open_video(path, everything, as_it_is)
    assert sum(len(frames) for frames in stream.frames_at([1, 2])) == 2
    change(path)
    with pytest.raises(VideoError, match=r"a\.mp4.*changed or deleted since it was opened.*open it again"):
        list(stream.frames_at([1, 2]))
