"""Real files, good and bad: each bad one is named, with its reason."""

import pickle
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from datamodules.video import VideoError, probe, read_video


def write(path: Path, count: int, fps: int = 10, faststart: bool = False) -> Path:
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for i in range(count):
            frame = np.full((64, 96, 3), 2 * i, np.uint8)
            frame[:, :48] = np.random.default_rng(i).integers(0, 255, (64, 48, 1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_audio(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        for i in range(10):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 1024 * i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def everything(num_frames, fps):
    return range(num_frames)


def as_it_is(frames):
    return frames


def test_probe(tmp_path):
    info = probe(write(tmp_path / "clip.mp4", 30))
    assert (info.num_frames, info.fps, info.height, info.width, info.seconds) == (30, 10.0, 64, 96, 3.0)


def test_frames_and_times_are_the_ones_asked_for(tmp_path):
    frames, seconds = read_video(write(tmp_path / "clip.mp4", 100), lambda n, fps: [0, 33, 99], as_it_is)
    assert frames.shape == (3, 64, 96, 3) and frames.dtype == torch.uint8
    assert seconds.tolist() == pytest.approx([0, 3.3, 9.9], abs=1e-3)
    brightness = frames[:, :, 60:].float().mean((1, 2, 3))
    assert brightness.tolist() == pytest.approx([0, 66, 198], abs=4)


def test_chunks_do_not_matter_and_bound_what_is_held(tmp_path):
    path, sizes = write(tmp_path / "clip.mp4", 40), []

    def shrink(frames):
        sizes.append(len(frames))
        return frames[:, ::2, ::2]

    whole, _ = read_video(path, everything, shrink)
    chunked, _ = read_video(path, everything, shrink, chunk_bytes=7 * 64 * 96 * 3)
    assert torch.equal(whole, chunked)
    assert sizes == [40, 7, 7, 7, 7, 7, 5]


@pytest.mark.parametrize("count", [1, 2])
def test_very_short_clips_work(tmp_path, count):
    frames, seconds = read_video(write(tmp_path / "short.mp4", count), everything, as_it_is)
    assert len(frames) == len(seconds) == count


def bad_file(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.mp4"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is not a video\n" * 50)
    elif kind == "audio":
        write_audio(path)
    elif kind == "folder":
        path.mkdir()
    elif kind in ("cut_before_index", "cut_after_index"):
        whole = write(folder / "whole.mp4", 100, faststart=kind == "cut_after_index").read_bytes()
        path.write_bytes(whole[: len(whole) * 2 // 3])
    return path


BAD = {
    "missing": "no such file",
    "empty": "the file is empty",
    "text": "is not a video",
    "audio": "has no video stream",
    "folder": "is a folder",
    "cut_before_index": "cut short",
    "cut_after_index": "cut short",
}


@pytest.mark.parametrize(("kind", "reason"), BAD.items())
def test_a_bad_file_is_named_with_its_reason(tmp_path, kind, reason):
    path = bad_file(tmp_path, kind)
    with pytest.raises(VideoError, match=reason) as caught:
        read_video(path, everything, as_it_is)
    assert str(path) in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_corrupted_clip(clips):
    with pytest.raises(VideoError, match=r"corrupted.mp4: cannot be decoded somewhere in frames \d+ to \d+ of 50"):
        read_video(clips / "corrupted.mp4", everything, as_it_is)


def test_real_clips(clips):
    info = probe(clips / "flipping_a_pancake.mkv")
    assert (info.num_frames, info.height, info.width) == (310, 240, 426)
    upright = {probe(clips / f"video_{turn}.mov").height for turn in (0, 180)}
    turned = {probe(clips / f"video_{turn}.mov").height for turn in (90, 270)}
    assert (upright, turned) == ({320}, {568})
    frames, seconds = read_video(clips / "unordered.mov", everything, as_it_is)
    assert len(frames) == 4 and bool((seconds.diff() > 0).all())
