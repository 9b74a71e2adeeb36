"""Benchmarks from the hub: archives unpacked, once."""

import tarfile
import zipfile

import pytest

from datamodules.benchmarks import hub
from datamodules.benchmarks.videomme import VideoMME
from flexselect.families import family_of
from tests import miniature
from tests.test_architecture import ROOT

DEMO = str(ROOT / "checkpoints" / "demo" / "video_llm")


@pytest.fixture
def remote(tmp_path):
    """VideoMME as on the hub: the table, the videos in two archives, one of them a tar in parts."""
    whole = miniature.videomme(tmp_path / "whole")
    folder = tmp_path / "remote"
    (folder / "videomme").mkdir(parents=True)
    table = next(whole.glob("videomme/*.parquet"))
    (folder / "videomme" / table.name).write_bytes(table.read_bytes())
    videos = sorted((whole / "data").iterdir())
    with zipfile.ZipFile(folder / "videos_chunked_01.zip", "w") as archive:
        archive.write(videos[0], f"deep/inside/{videos[0].name}")
    with tarfile.open(tmp_path / "rest.tar", "w") as archive:
        for video in videos[1:]:
            archive.add(video, f"data/{video.name}")
    data = (tmp_path / "rest.tar").read_bytes()
    third = len(data) // 3
    for i, part in enumerate((data[:third], data[third : 2 * third], data[2 * third :])):
        (folder / f"rest.tar.part.a{'abc'[i]}").write_bytes(part)
    return folder


@pytest.fixture
def downloads(remote, monkeypatch):
    """The hub's client, as a copy of a folder; what it was asked for."""
    asked = []

    def snapshot_download(repository, repo_type, local_dir):
        asked.append((repository, repo_type))
        for file in (file for file in remote.rglob("*") if file.is_file()):
            target = local_dir / file.relative_to(remote)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(hub.HfApi, "dataset_info", lambda self, repository: None)
    return asked


def test_a_benchmark_is_downloaded_and_unpacked(downloads, tmp_path):
    data = VideoMME(family_of(DEMO), str(tmp_path / "root"), download=True)
    assert downloads == [("lmms-eval/Video-MME", "dataset")] and len(data.questions) == 12
    assert all((tmp_path / "root" / question.video).is_file() for question in data.questions)


def test_each_archive_is_unpacked_once(downloads, tmp_path):
    root = tmp_path / "root"
    hub.fetch("lmms-eval/Video-MME", root)
    video = next((root / "deep" / "inside").iterdir())
    video.unlink()
    hub.unpack(root)
    assert not video.exists()
    (root / hub.DONE).unlink()
    hub.unpack(root)
    assert video.exists()


def test_a_broken_archive_is_named(downloads, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "b.zip").write_bytes(b"no archive")
    with pytest.raises(OSError, match=r"root/b\.zip is broken .*: delete it and download it again"):
        hub.unpack(root)
    (root / "b.zip").unlink()
    (root / "c.tar").write_bytes(b"no archive")
    with pytest.raises(OSError, match=r"root/c\.tar is broken"):
        hub.unpack(root)


def test_what_cannot_be_downloaded(tmp_path, monkeypatch):
    failed = "lmms-eval/Video-MME cannot be downloaded into .*root: "
    with pytest.raises(ConnectionError, match=failed + ".*[Oo]ffline"):
        VideoMME(family_of(DEMO), str(tmp_path / "root"), download=True)

    def refused(*_, **__):
        raise PermissionError("a gated data set: log in")

    monkeypatch.setattr(hub.HfApi, "dataset_info", refused)
    with pytest.raises(ConnectionError, match=failed + "a gated data set"):
        VideoMME(family_of(DEMO), str(tmp_path / "root"), download=True)
