"""Frame indices on disk: never a wrong one, and no error whatever the folder is."""

import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

from datamodules import video
from datamodules.video import VideoError, read_file, read_video
from datamodules.video_files import index_cache
from flexselect.structures.frames import ReadOptions
from tests.datamodules.test_video import FILES, as_it_is, everything, write_like_the_web
from tests.datamodules.test_video_files import write_at


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(index_cache, "MIN_BYTES", 0)
    return tmp_path / "cache" / "flexselect" / "frame_indices"


@pytest.fixture
def readings(monkeypatch):
    """The files whose packets are read."""
    files, read = [], video._read_index

    def counted(file, track):
        files.append(file.name)
        return read(file, track)

    monkeypatch.setattr(video, "_read_index", counted)
    return files


def index_of(path, **options):
    return read_file(path, ReadOptions(**options))[0]


@pytest.mark.parametrize("name", ["b_frames.mp4", "open_gop.mkv", "old.avi", "hevc.mp4", "web.webm", "stream.ts"])
def test_an_index_comes_back_as_it_was(tmp_path, folder, readings, name):
    path = write_like_the_web(tmp_path / name, 60, **FILES[name])
    first, again = index_of(path), index_of(path)
    assert first == again and readings == [name] and len(list(folder.iterdir())) == 1
    assert (first.costs.references == again.costs.references).all()
    assert read_video(path, everything, as_it_is)[0].shape[0] == 60


def test_warnings_and_facts_come_back(tmp_path, folder, readings):
    path = write_at(tmp_path / "camera.mkv", range(0, 500, 25), rate=50)
    (_, first), (_, again) = (read_file(path, ReadOptions()) for _ in range(2))
    assert first == again and first.warnings and len(readings) == 1


def test_a_file_that_changed_is_read_again(tmp_path, folder, readings):
    path = write_like_the_web(tmp_path / "a.mp4", 60)
    before = index_of(path)
    write_like_the_web(path, 48)
    assert len(index_of(path).times) == 48 and len(before.times) == 60 and len(readings) == 2


def test_content_is_compared_even_if_size_and_time_are_the_same(tmp_path, folder, readings):
    path = write_like_the_web(tmp_path / "a.mp4", 60)
    status = path.stat()
    index_of(path)
    data = bytearray(path.read_bytes())
    data[-300:-200] = bytes(100)
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    with suppress(VideoError):  # its header is at its end
        index_of(path)
    assert len(readings) == 2


def test_a_copy_a_track_and_a_format_have_their_own(tmp_path, folder, readings, monkeypatch):
    path = write_like_the_web(tmp_path / "a.mp4", 24)
    copy = tmp_path / "b.mp4"
    copy.write_bytes(path.read_bytes())
    indices = [index_of(path), index_of(copy), index_of(path, track=0)]
    monkeypatch.setattr(index_cache, "FORMAT", 99)
    index_of(path)
    assert len(readings) == 4 and [Path(index.path).name for index in indices] == ["a.mp4", "b.mp4", "a.mp4"]


def test_a_damaged_index_is_read_again_and_replaced(tmp_path, folder, readings):
    path = write_like_the_web(tmp_path / "a.mp4", 24)
    index = index_of(path)
    (kept,) = folder.iterdir()
    whole = kept.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"PK" + bytes(100), whole.replace(b"times.npy", b"tymes.npy")):
        kept.write_bytes(damaged)
        assert index_of(path) == index
        assert kept.read_bytes() != damaged, "replaced"
    assert len(readings) == 5


def test_a_folder_that_cannot_be_used_is_no_error(tmp_path, folder, readings, monkeypatch):
    path = write_like_the_web(tmp_path / "a.mp4", 24)
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert len(index_of(path).times) == len(index_of(path).times) == 24 and len(readings) == 2
    (tmp_path / "cache").unlink()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(index_cache.np, "savez_compressed", full)
        index_of(path)
    assert list(folder.iterdir()) == [], "nothing is left of what could not be written"
    index_of(path)
    assert len(list(folder.iterdir())) == 1


def test_a_file_that_is_written_to_meanwhile_is_not_kept(tmp_path, folder, monkeypatch):
    path = write_like_the_web(tmp_path / "a.ts", 24)
    read = video._read_index

    def growing(file, track):
        result = read(file, track)
        with path.open("ab") as more:
            more.write(bytes(188))
        return result

    monkeypatch.setattr(video, "_read_index", growing)
    index_of(path)
    assert not folder.exists()


def test_the_folder_is_bounded(tmp_path, folder, monkeypatch):
    paths = [write_like_the_web(tmp_path / f"{i}.mp4", 24) for i in range(3)]
    for path in paths[:2]:
        index_of(path)
    size = max(file.stat().st_size for file in folder.iterdir())
    for age, file in enumerate(sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns)):
        os.utime(file, (time.time() - 100 + age,) * 2)
    oldest = min(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns)
    monkeypatch.setattr(index_cache, "MAX_BYTES", int(2.5 * size))
    index_of(paths[2])
    assert len(list(folder.iterdir())) == 2 and not oldest.exists()


def test_small_files_leave_nothing_behind(tmp_path, folder, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    index_of(write_like_the_web(tmp_path / "a.mp4", 24))
    assert not (tmp_path / "cache").exists()


def homeless():
    raise RuntimeError("Could not determine home directory.")


def test_where_the_folder_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert index_cache._folder() == tmp_path / ".cache" / "flexselect" / "frame_indices"
    monkeypatch.setattr(Path, "home", homeless)
    path = write_like_the_web(tmp_path / "a.mp4", 24)
    monkeypatch.setattr(index_cache, "MIN_BYTES", 0)
    assert index_cache._folder() is None and len(index_of(path).times) == 24
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert index_cache._folder() == Path("/elsewhere/flexselect/frame_indices")
