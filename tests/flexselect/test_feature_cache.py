"""Vision features on disk."""

import os
import time

import pytest
import torch

from flexselect.families import family_of
from flexselect.storage.feature_cache import FeatureCache
from flexselect.structures.prompt import EncodedVideo
from tests import tiny
from tests.near import assert_near

PREFIX = torch.tensor([1, 2])


def encoded(tokens=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(tokens, 4, generator=generator).bfloat16()
    return EncodedVideo(PREFIX, features, (tokens // 2, 1, 2), 0.5, seconds=torch.arange(tokens).double())


@pytest.fixture
def files(tmp_path):
    (tmp_path / "videos").mkdir()
    result = [tmp_path / "videos" / f"{i}.mp4" for i in range(4)]
    for i, file in enumerate(result):
        file.write_bytes(bytes(i + 1))
    return result


def test_what_was_put_comes_back(tmp_path, files):
    cache = FeatureCache(tmp_path / "cache", 1, {"weights": "a"})
    assert cache.get(files[0], PREFIX) is None
    cache.put(files[0], encoded())
    result = cache.get(files[0], PREFIX)
    assert torch.equal(result.features, encoded().features) and result.features.dtype == torch.bfloat16
    assert (result.grid, result.seconds_per_unit, result.delimiters) == ((3, 1, 2), 0.5, ())
    assert result.sampling == encoded().sampling == {"grid": [3, 1, 2], "frames": 6, "fps": 1.0}
    assert cache.get(files[1], PREFIX) is None


def test_another_model_or_file_is_not_mistaken(tmp_path, files):
    FeatureCache(tmp_path / "cache", 1, {"weights": "a"}).put(files[0], encoded())
    assert FeatureCache(tmp_path / "cache", 1, {"weights": "b"}).get(files[0], PREFIX) is None
    files[0].write_bytes(b"another video")
    assert FeatureCache(tmp_path / "cache", 1, {"weights": "a"}).get(files[0], PREFIX) is None


def test_what_was_not_used_for_longest_goes(tmp_path, files):
    cache = FeatureCache(tmp_path / "cache", 1, {})
    cache.put(files[0], encoded())
    (one,) = (tmp_path / "cache").glob("*.safetensors")
    cache.max_bytes = int(2.5 * one.stat().st_size)
    os.utime(one, ns=(1, 1))
    cache.put(files[1], encoded(seed=1))
    assert cache.get(files[0], PREFIX) is not None  # used: now 1 is older
    older = next(file for file in (tmp_path / "cache").glob("*.safetensors") if file != one)
    os.utime(older, ns=(1, 1))
    cache.put(files[2], encoded(seed=2))
    assert [cache.get(file, PREFIX) is not None for file in files[:3]] == [True, False, True]
    cache.max_bytes = 10
    cache.put(files[3], encoded(seed=3))  # larger than the whole cache
    assert not list((tmp_path / "cache").glob("*.safetensors"))


def test_a_broken_file_is_a_video_that_is_not_there(tmp_path, files, caplog):
    cache = FeatureCache(tmp_path / "cache", 1, {})
    cache.put(files[0], encoded())
    (file,) = (tmp_path / "cache").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-20])
    assert cache.get(files[0], PREFIX) is None and not file.exists()
    assert "0.mp4 cannot be read (" in caplog.text and "the video is encoded again" in caplog.text


def test_a_full_disk_and_what_a_kill_left(tmp_path, files, monkeypatch, caplog):
    cache = FeatureCache(tmp_path / "cache", 1, {})
    left = tmp_path / "cache" / "abc.1.tmp"
    left.write_bytes(b"half")
    cache.put(files[0], encoded())
    assert left.exists()  # another process may be writing it
    os.utime(left, (time.time() - 7200,) * 2)
    cache.put(files[1], encoded())
    assert not left.exists()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flexselect.storage.encoded_file.save_file", full)
    cache.put(files[2], encoded())
    assert "2.mp4 are not kept" in caplog.text and "No space left on device" in caplog.text
    cache.put(tmp_path / "gone.mp4", encoded())
    assert "gone.mp4 are not kept ([Errno 2]" in caplog.text and cache.get(files[2], PREFIX) is None


def test_no_room_is_refused(tmp_path):
    with pytest.raises(ValueError, match="max_gb must be above 0, got 0"):
        FeatureCache(tmp_path, 0, {})


def test_answers_from_kept_features_are_the_same(load, tmp_path):
    """In every family, brackets and all."""
    fs = load(selector="self", budget=6)
    session = fs.open(tiny.frames(8, 56, 84), range(8))
    video = tmp_path / "video.mp4"
    video.write_bytes(b"1")
    cache = FeatureCache(tmp_path / "cache", 1, {})
    cache.put(video, session.encode())
    again = fs.open_encoded(cache.get(video, fs.lm.prompter.prefix_ids))
    one, other = (each.ask("Which shape is red?", max_new_tokens=4) for each in (session, again))
    assert_near(one.selection.scores, other.selection.scores)
    assert one.text == other.text
    assert torch.equal(one.selection.kept, other.selection.kept)


def test_a_cache_that_cannot_be_is_refused_before_a_model_loads(checkpoint, tmp_path):
    from lightning_modules.video_qa import VideoQA

    family = family_of(str(checkpoint))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"feature_cache .*file cannot be written: .*file is no folder"):
        VideoQA(family, feature_cache=str(tmp_path / "file"))
    VideoQA(family, feature_cache=str(tmp_path / "a" / "b"))
    assert not (tmp_path / "a").exists(), "options make no folders"
    with pytest.raises(ValueError, match="feature_cache_gb must be above 0, got 0"):
        VideoQA(family, feature_cache=str(tmp_path / "cache"), feature_cache_gb=0)
