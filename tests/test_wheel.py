"""A wheel, installed into an environment without a checkout, answers the demo's question from an empty folder."""

import site
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

import pytest

from datamodules.needles import write_needle_videos
from tests.processes import copy_tree

ROOT = Path(__file__).parents[1]
FROM_NOWHERE = {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The installed program; torch and the like come from this environment, this project does not."""
    if int(version("setuptools").partition(".")[0]) < 77:
        pytest.skip("NOT CHECKED: setuptools is older than pyproject.toml asks for, and there is no network")
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), "."]
    subprocess.run(build, cwd=copy_tree(tmp_path_factory.mktemp("source"), ("tests", "bench", "docs")), check=True)
    (wheel,) = folder.glob("*.whl")
    assert wheel.stat().st_size < 10e6, "small enough for a package index"
    venv.create(folder / "env", with_pip=False)
    (packages,) = (folder / "env" / "lib").glob("python3*/site-packages")
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()))  # their own .pth files are not read
    python = folder / "env" / "bin" / "python"
    subprocess.run(
        [*pip, "--python", str(python), "install", "--no-deps", "--ignore-installed", str(wheel)], check=True
    )
    return folder / "env" / "bin" / "flexselect"


def said(program, folder, *words):
    done = subprocess.run([program, *words], cwd=folder, env=FROM_NOWHERE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_it_answers_the_demos_question(program, tmp_path):
    write_needle_videos(tmp_path, videos=1, patches=256, seed=2026)  # the demo's video
    words = "ask", "needles_000.mp4", "What colour is the circle?", "--model", "demo/lite"
    assert said(program, tmp_path, *words) == "purple\n"
    assert not (tmp_path / "configs").exists() and not (tmp_path / "checkpoints").exists()


def test_it_is_the_wheel_that_runs(program):
    where = said(
        program.with_name("python"), "/", "-c", "import flexselect, cli; print(flexselect.__file__, cli.__file__)"
    )
    assert all(path.startswith(str(program.parents[1])) for path in where.split())
