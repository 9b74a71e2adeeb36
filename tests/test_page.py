"""The page to try a model on: what it answers, what it refuses, who reaches it; in a browser where there is one."""

import re
import shutil
import signal
import socket
import sys
import time
import urllib.request
from pathlib import Path

import pytest

import cli
from datamodules.needles import write_needle_videos
from flexselect import FlexSelect
from flexselect.page.facts import answer_facts, escape_markdown, video_facts
from flexselect.page.modes import Modes
from tests.datamodules.test_video_files import as_webm
from tests.processes import Run

ROOT = Path(__file__).parents[1]
VIDEO_LLM, SELECTOR = "checkpoints/demo/video_llm", "checkpoints/demo/selector"
QUESTION = "What colour is the ring?"


def loaded(selector):
    return FlexSelect.from_pretrained(VIDEO_LLM, selector=selector, dtype="float32", device="cpu", budget=9)


@pytest.fixture(scope="module")
def served(videos):
    """The page's address; uploads of at most a megabyte."""
    pytest.importorskip("gradio", reason="NOT CHECKED: the page needs gradio")
    words = ["serve", "--config", "configs/demo/serve.yaml", "--videos", str(videos), "--budget", "9"]
    words += ["--port", "0", "--max_upload_mb", "1", "--reference_layer", "1", "--reduction", "max"]
    process, address = Run(words), None
    while address is None:
        assert process.poll() is None, process.said()[1]
        time.sleep(0.05)
        address = re.search(r"http://\S+?/(?=;)", process.said()[1])
    yield address[0]
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    assert "stopped by SIGTERM" in process.said()[1] and "call again" not in process.said()[1]


@pytest.fixture
def page(served, browser):
    """It in a browser, with `asked`, the addresses that were asked for, and `wrong`, what went wrong."""
    context = browser.new_context(viewport={"width": 1300, "height": 1400})
    page = context.new_page()
    page.asked, page.wrong = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.goto(served)
    page.get_by_text("No video yet. Choose or upload one, then ask.").wait_for()
    yield page
    assert not page.wrong
    outside = [url for url in page.asked if not url.startswith((served, "data:", "blob:"))]
    assert not outside, "it needs no other server"
    context.close()


def ask(page, question):
    page.get_by_label("Question").fill(question)
    page.get_by_role("button", name="Ask").click()


def test_one_video_in_memory_answers_as_three_models_would(videos):
    file = sorted(videos.glob("*.mp4"))[0]
    modes = Modes(loaded("self"), SELECTOR)
    sessions = modes.open(file)
    assert len({id(session.encode().features) for session in sessions.values()}) == 1, "encoded once"
    for (mode, session), selector in zip(sessions.items(), (None, "self", SELECTOR)):
        alone = loaded(selector).open(file).ask(QUESTION, 4)
        shown = modes.ask(session, QUESTION, 9, 4)
        assert shown.answer.text == alone.text and shown.answer.num_kept_tokens == alone.num_kept_tokens, mode
        assert len(shown.pictures) == (0 if selector is None else 2)
        if selector is not None:
            assert shown.answer.selection.kept.tolist() == alone.selection.kept.tolist()
            assert modes.ask(session, QUESTION, 4, 4).answer.num_kept_tokens == 4
        assert f"of {alone.num_visual_tokens} visual tokens shown" in answer_facts(shown.answer)
        assert re.match(r"0:0\d long, 12 frames, 54 visual tokens; decode .* MB kept$", video_facts(session))


def test_modes_keep_the_options_of_the_model(videos):
    """A budget of one question is no budget of the model; splits and positions are those that were asked for."""
    options = {"budget": 9, "budget_split": "released", "positions": "compact", "units_per_set": 4}
    fs = FlexSelect.from_pretrained(VIDEO_LLM, selector="self", dtype="float32", device="cpu", **options)
    modes = Modes(fs, SELECTOR)
    sessions = modes.open(sorted(videos.glob("*.mp4"))[0])
    for mode, session in sessions.items():
        modes.ask(session, QUESTION, 4, 2)
        assert {name: vars(session.engine.options)[name] for name in options} == options, mode


def test_without_gradio_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio.themes", None)
    assert cli.main(["serve", "--config", "configs/demo/serve.yaml"]) == cli.BAD_USAGE
    assert "pip install 'flexselect[serve]'" in capsys.readouterr().err


def test_what_cannot_be_served(tmp_path, capsys):
    pytest.importorskip("gradio", reason="NOT CHECKED: the page needs gradio")
    words = ["serve", "--config", "configs/demo/serve.yaml"]
    assert cli.main([*words, "--videos", str(tmp_path / "none")]) == cli.BAD_USAGE
    assert "no such folder" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert cli.main([*words, "--videos", str(tmp_path), "--port", port]) == cli.BAD_USAGE
    assert f"port {port} cannot be used" in capsys.readouterr().err


def test_only_this_machine_reaches_it(served):
    number = int(served.rstrip("/").rpartition(":")[2])
    port = f"{number:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = [line[1] for line in lines if line[3] == "0A" and line[1].endswith(f":{port}")]
    assert listening == [f"0100007F:{port}"], "127.0.0.1, and no other address"


def test_names_that_markdown_would_read():
    assert escape_markdown("a_b*<i>.mp4") == r"a\_b\*\<i\>\.mp4"


def test_choose_a_video_and_ask(page, videos):
    name = sorted(file.name for file in videos.glob("*.mp4"))[0]
    page.get_by_label("A video").click()
    page.get_by_role("option", name=name).click()
    page.get_by_text("54 visual tokens").wait_for()
    page.wait_for_timeout(1500)
    assert sum("queue/join" in url for url in page.asked) == 1, "indexed once"
    ask(page, QUESTION)
    page.get_by_text("9 of 54 visual tokens shown").nth(1).wait_for()
    page.get_by_role("gridcell", name=QUESTION).or_(page.get_by_text(QUESTION)).nth(2).wait_for()
    for label, selector in (("dense", None), ("training-free", "self"), ("lite", SELECTOR)):
        alone = loaded(selector).open(videos / name).ask(QUESTION, 4)
        assert page.get_by_role("textbox", name=label).input_value() == alone.text
    pictures = page.locator("img[src*='/file=']")
    pictures.nth(3).wait_for()
    assert pictures.count() == 4
    page.get_by_role("spinbutton").fill("5")
    page.get_by_role("spinbutton").press("Enter")
    ask(page, "Which shape is red?")
    page.get_by_text("5 of 54 visual tokens shown").nth(1).wait_for()


def test_upload(page, videos, tmp_path):
    upload = page.locator("input[type=file]").first
    upload.set_input_files(sorted(videos.glob("*.mp4"))[1])
    page.get_by_text("54 visual tokens").wait_for()
    (tmp_path / "no_video.mp4").write_text("words")
    page.get_by_label("Remove this file").or_(page.get_by_label("Clear")).first.click()
    upload.set_input_files(tmp_path / "no_video.mp4")
    page.get_by_text("is not a video, or is cut short").wait_for()
    page.get_by_role("button", name="Ask").click()
    page.get_by_text("Please choose or upload a video").wait_for()
    page.get_by_label("Remove this file").or_(page.get_by_label("Clear")).first.click()
    (tmp_path / "large.mp4").write_bytes(bytes(2 << 20))
    upload.set_input_files(tmp_path / "large.mp4")
    page.get_by_text(re.compile("exceeds|too large|maximum allowed", re.I)).first.wait_for()
    (tmp_path / "notes.txt").write_text("words")
    upload.set_input_files(tmp_path / "notes.txt")
    page.get_by_text(re.compile("invalid file type|file type", re.I)).first.wait_for()


def test_files_that_were_added_since_are_listed(page, videos, tmp_path):
    """The page was served before; nothing is loaded again."""
    new = videos / "added_later.mp4"
    new.write_bytes(sorted(videos.glob("needles*.mp4"))[0].read_bytes())
    try:
        page.get_by_label("A video").click()
        page.get_by_role("option", name=new.name).click()
        page.get_by_text("54 visual tokens").wait_for()
    finally:
        new.unlink()


def test_asking_without_a_video_says_what_is_missing(page):
    page.get_by_role("button", name="Ask").click()
    page.get_by_text("Please choose or upload a video and write a question.").wait_for()


def test_what_is_missing_is_named_and_the_table_stays(page, videos):
    name = sorted(file.name for file in videos.glob("*.mp4"))[0]
    page.get_by_label("A video").click()
    page.get_by_role("option", name=name).click()
    page.get_by_text("54 visual tokens").wait_for()
    ask(page, QUESTION)
    page.get_by_text("9 of 54 visual tokens shown").nth(1).wait_for()
    ask(page, " ")
    page.get_by_text("Please write a question.").wait_for()
    page.get_by_label("dense").first.uncheck()
    page.get_by_label("training-free").first.uncheck()
    page.get_by_label("lite").first.uncheck()
    ask(page, " ")
    page.get_by_text("Please write a question and choose a mode.").wait_for()
    assert page.get_by_text("9 of 54 visual tokens shown").count() == 2, "the answers stay"
    assert page.get_by_text(QUESTION).count() >= 3, "and the table"


def test_it_holds_on_a_phone(page):
    for width in (390, 1400):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"cut off at {width} pixels"


@pytest.mark.parametrize(("name", "copy"), [("long.mp4", shutil.copy), ("other.webm", as_webm)])
def test_a_click_on_a_moment_sets_the_players_time(page, videos, tmp_path, name, copy):
    """The file itself is played, in parts: nothing is copied."""
    write_needle_videos(tmp_path, videos=1, patches=48, seed=2026)
    long = videos / name
    copy(tmp_path / "needles_000.mp4", long)
    try:
        page.get_by_label("A video").click()
        page.get_by_role("option", name=long.name).click()
        page.get_by_text("432 visual tokens").wait_for()
        video = page.locator("#player").element_handle()
        page.wait_for_function("video => video.readyState > 0", arg=video)
        page.get_by_label("Verify").check()
        ask(page, "What colour is the circle?")
        page.get_by_text("9 of 432 visual tokens shown").nth(1).wait_for()
        assert page.get_by_text("without it the model gives").or_(page.get_by_text("without the first")).count() >= 1
        along = page.locator(".along").first
        box = along.bounding_box()
        along.click(position={"x": box["width"] / 2, "y": 5})
        assert page.evaluate("video => video.currentTime", video) == pytest.approx(24.0, abs=0.5)
        moment = page.locator(".moment").last
        at = float(re.search(r"at = ([\d.]+)", moment.get_attribute("onclick"))[1])
        moment.click()
        page.wait_for_function("([video, at]) => Math.abs(video.currentTime - at) < 0.1", arg=[video, at])
        assert page.evaluate("video => video.duration", video) == pytest.approx(48.0, abs=0.6)
        (address,) = {url for url in page.asked if "/file=" in url and url.endswith(name)}
        assert str(long) in address, "from where it lies"
        status, headers = served_part(address)
        assert status == 206 and headers["content-range"].startswith("bytes 0-99/")
    finally:
        long.unlink()


def served_part(address):
    request = urllib.request.Request(address, headers={"Range": "bytes=0-99"})
    with urllib.request.urlopen(request) as answer:
        return answer.status, {name.lower(): value for name, value in answer.headers.items()}
