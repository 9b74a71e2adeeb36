"""Fixtures that several folders of tests use."""

import shutil
from pathlib import Path

import pytest
import torch

from flexselect import FlexSelect
from tests import tiny

BESIDE = Path(__file__).parents[2]  # the folder that the checkout lies in
SMALL = Path(__file__).parent / "golden"  # what the released code computes on tiny models
LARGE = next(BESIDE.glob("*/golden/A"), None)  # the same with all that was recorded
CLIPS = next(BESIDE.glob("*/videos/corrupted.mp4"), None)


@pytest.fixture(autouse=True)
def seed():
    torch.default_generator.manual_seed(0)  # `torch.manual_seed` takes as long as some tests: it asks for GPUs first


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A random Qwen2.5-VL with a tokenizer, in Hugging Face layout."""
    return tiny.qwen2_5_vl(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> Path:
    """Two short needle clips with four questions each."""
    from datamodules.needles import write_needle_videos

    folder = tmp_path_factory.mktemp("videos")
    write_needle_videos(folder, videos=2, patches=6, needles=3, questions=4, seed=1)
    return folder


SLOW = {"glm4v", "minicpm_v"}  # families whose turn it is in `make test-slow` only


def slow_but(usual, names) -> list:
    """Leave some cases of a test in the usual suite; the others have their turn in `make test-slow`."""
    return [name if usual(name) else pytest.param(name, marks=pytest.mark.slow) for name in names]


TWO = {"qwen2_5_vl", "qwen3_5"}  # with attention alone, and with recurrent layers
in_two_families = pytest.mark.parametrize(  # for long tests
    "model_folder", slow_but(TWO.__contains__, tiny.BUILDERS), indirect=True
)


@pytest.fixture(
    scope="session",
    params=slow_but(lambda name: name not in SLOW, tiny.BUILDERS),
)
def model_folder(request, tmp_path_factory) -> Path:
    """A random model of each family, in the layout its authors released: being on that list is being tested."""
    folder = tmp_path_factory.mktemp("models") / request.param
    folder.mkdir()
    return tiny.BUILDERS[request.param](folder)


@pytest.fixture
def load(model_folder):
    """`load(selector="self", ...)` in float32 on the CPU, for each family."""

    def load(**options) -> FlexSelect:
        return FlexSelect.from_pretrained(str(model_folder), dtype="float32", device="cpu", **options)

    return load


@pytest.fixture(scope="session")
def golden() -> Path:
    """The large set where it lies beside the checkout, else the small one."""
    return LARGE or SMALL


@pytest.fixture(scope="session")
def large_golden() -> Path:
    if LARGE is None:
        pytest.skip("NOT CHECKED against all that the released code computes: the large set is not here")
    return LARGE


@pytest.fixture(scope="session")
def clips() -> Path:
    if CLIPS is None:
        pytest.skip("NOT CHECKED on real clips: none here")
    return CLIPS.parent


@pytest.fixture(scope="session")
def browser():
    """Chromium, without a window and without a network beyond this machine."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("NOT CHECKED in a browser: no chromium here")
    sync = pytest.importorskip("playwright.sync_api", reason="NOT CHECKED in a browser: no playwright here")
    with sync.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()
