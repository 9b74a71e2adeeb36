"""`visualize` and `--report` as they are run, and the page in a browser."""

import json
import re

import av
import pytest

import cli
from flexselect import FlexSelect
from flexselect.visualize.report import write_report
from tests.datamodules.test_video_files import as_webm, write_at

DEMO = "configs/demo/{}.yaml"
AT = "([video, at]) => video.readyState > 2 && Math.abs(video.currentTime - at) < 0.1"  # a player's time
QUIET = ["--trainer.enable_progress_bar", "false"]


@pytest.fixture
def annotations(videos, tmp_path):
    """The clips' eight questions, and one about a video that is not there, with signs that HTML reads."""
    rows = [json.loads(line) for line in (videos / "annotations.jsonl").read_text().splitlines()]
    rows.append({"id": "none/<b>", "video": "none.mp4", "question": 'Is <i>this</i> "a & b"?', "answer": "yes"})
    file = tmp_path / "annotations.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def run(verb, mode, annotations, videos, out, *more):
    words = [verb, "--config", DEMO.format(mode), "--data.annotations", str(annotations), *QUIET, *more]
    return cli.main([*words, "--data.video_root", str(videos), "--output_dir", str(out)])


def reported(page):
    """What a page says of each question: mark, question, answer, and how many frames it shows."""
    parts = re.split(r"<details", page)[1:]
    one = r'title="(\w+)">.*?class="q">(.*?)</span><span class="a">(.*?)</span>'
    return [(*re.search(one, part, re.S).groups(), part.count("<img")) for part in parts]


def test_validate_with_report(annotations, videos, tmp_path):
    out = tmp_path / "out"
    assert run("validate", "self", annotations, videos, out, "--report") == cli.SOME_FAILED
    page, results = (out / "report.html").read_text(), json.loads((out / "results.json").read_text())
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    told = reported(page)
    assert len(told) == len(rows) == 9 and f"<b>{results['accuracy']:.3f}</b>" in page
    assert {what for what, *_ in told} >= {"error"} and sum(what == "right" for what, *_ in told) == sum(
        row["correct"] is True for row in rows
    )
    (failed,) = (each for each in told if each[0] == "error")
    assert "&lt;i&gt;this&lt;/i&gt;" in failed[1] and "no such file" in failed[2] and failed[3] == 0
    assert all(frames == 4 for what, _, _, frames in told if what != "error")
    assert results["fingerprint"]["weights"] in page and "reference_layer" in page
    videos_played = re.findall(r"<video controls preload=\"none\" src=\"([^\"]+)\">", page)
    assert len(videos_played) == 8 and all((out / address).is_file() for address in videos_played), "beside the page"
    outside = re.findall(r"(?:src|href)=\"(?!data:)|@import|url\(|https?://", re.sub(r"<video [^>]*>", "", page))
    assert not outside, f"the page needs {outside}"


def test_pictures_that_are_missing_are_made_without_losing_an_answer(annotations, videos, tmp_path):
    out = tmp_path / "out"
    assert run("predict", "self", annotations, videos, out) == cli.SOME_FAILED, "no pictures yet"
    assert not (out / "report.html").exists()
    first = (out / "predictions.jsonl").read_text()
    assert run("predict", "self", annotations, videos, out, "--report") == cli.SOME_FAILED
    told = reported((out / "report.html").read_text())
    assert [frames for *_, frames in told].count(4) == 8
    answers = [
        [json.loads(line)["answer"] for line in text.splitlines()]
        for text in (first, (out / "predictions.jsonl").read_text())
    ]
    assert sorted(map(str, answers[0])) == sorted(map(str, answers[1]))
    when = {file: file.stat().st_mtime_ns for file in (out / "report").glob("*.json")}
    victim = min(when)
    victim.unlink()
    assert run("predict", "self", annotations, videos, out, "--report") == cli.SOME_FAILED
    again = {file for file in when if file.stat().st_mtime_ns != when[file]}
    assert again == {victim}, "what is there is not drawn again"


def test_dense_has_a_report_too_but_nothing_to_visualize(annotations, videos, tmp_path, capsys):
    assert run("predict", "dense", annotations, videos, tmp_path / "dense", "--report") == cli.SOME_FAILED
    told = reported((tmp_path / "dense" / "report.html").read_text())
    assert [frames for *_, frames in told].count(4) == 8
    assert run("visualize", "dense", annotations, videos, tmp_path / "nothing") == cli.BAD_USAGE
    assert "nothing to draw" in capsys.readouterr().err
    assert cli.main(["fit", "--config", "configs/demo/train_video_llm.yaml", "--report"]) == cli.BAD_USAGE


def test_a_page_of_many_questions_shows_pictures_of_some(tmp_path):
    frame = {"when": "0:01", "score": 1.0, "kept": 3, "jpeg": "AAAA"}
    token_map = {"frames": [frame], "kept": [0, 3], "best": [0.1, 1.0], "seconds": 2.0}
    row = {"video": "v", "answer": "a", "error": None, "timings": {}, "num_kept_tokens": 3, "num_visual_tokens": 9}
    rows = [{**row, "id": str(i), "question": f"Q{i}", "options": [], "correct": i != 4} for i in range(6)]
    write_report(tmp_path / "report.html", "many", rows, lambda row: token_map, None, {}, most=2)
    page = (tmp_path / "report.html").read_text()
    told = reported(page)
    assert [frames for *_, frames in told] == [1, 1, 0, 0, 0, 0]
    assert [question for _, question, *_ in told] == ["Q4", "Q0", "Q1", "Q2", "Q3", "Q5"], "the wrong one first"
    assert "Pictures of 2 questions" in page


def test_nothing_kept_is_encoded_once_a_question(videos, tmp_path, monkeypatch):
    """Grid and times of a report come with the answer, not from the features once more."""
    encoded = []
    arguments = FlexSelect.encode_source
    monkeypatch.setattr(FlexSelect, "encode_source", lambda *all: encoded.append(1) or arguments(*all))
    annotations = videos / "annotations.jsonl"
    assert run("predict", "self", annotations, videos, tmp_path, "--report", "--model.keep", "nothing") == 0
    assert len(encoded) == 8


@pytest.mark.parametrize("verb, mode", [("visualize", "self"), ("locate", "locate")])
def test_without_matplotlib_nothing_is_begun(verb, mode, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("flexselect.visualize.style.find_spec", lambda name: None)
    words = [verb, "--config", DEMO.format(mode), "--output_dir", str(tmp_path / "out"), *QUIET]
    words += ["--data.video", "v.mp4", "--data.question", "?"] if verb == "visualize" else []
    assert cli.main(words) == cli.BAD_USAGE and not list(tmp_path.glob("out/pictures"))
    assert "pip install 'flexselect[viz]'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["locate", "self"], ["visualize", "locate"], ["predict", "locate", "--report"]])
def test_a_verb_with_configs_of_another(words, tmp_path, capsys):
    verb, mode, *more = words
    arguments = ["--data.video", "v.mp4", "--data.question", "?"] if mode == "self" else []
    assert (
        cli.main([verb, "--config", DEMO.format(mode), "--output_dir", str(tmp_path), *arguments, *more])
        == cli.BAD_USAGE
    )
    assert "is for a model of" in capsys.readouterr().err


def test_visualize_draws_a_folder_a_question(videos, tmp_path):
    video = sorted(videos.glob("*.mp4"))[0]
    words = ["visualize", "--config", DEMO.format("lite"), "--data.video", str(video), *QUIET]
    words += ["--data.question", "What colour is the ring?", "--output_dir", str(tmp_path)]
    assert cli.main(words) == 0
    (folder,) = (tmp_path / "pictures").iterdir()
    drawn = {file.name for file in folder.iterdir()}
    assert drawn == {
        *("heat_map.png", "kept_tokens.png", "timeline.png", "overlay.mp4", "states_by_layer.png"),
        "teacher_and_selector.png",
    }
    before = (folder / "heat_map.png").stat().st_mtime_ns
    assert cli.main(words) == 0 and (folder / "heat_map.png").stat().st_mtime_ns == before, "drawn once"


def test_the_report_in_a_browser(annotations, videos, tmp_path, browser):
    out = tmp_path / "out"
    run("validate", "self", annotations, videos, out, "--report", "--model.budget", "20")
    context = browser.new_context(offline=True)
    page, asked, wrong = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(f"file://{out / 'report.html'}")
    assert page.locator("details").count() == 9
    page.get_by_role("button", name="error 1").click()
    assert page.locator("details:visible").count() == 1
    page.locator("details:visible summary").click()
    assert page.locator(".more:visible").inner_text().count("no such file") == 1
    page.get_by_role("button", name="all 9").click()
    page.get_by_role("searchbox").fill("colour")
    shown = page.locator("details:visible")
    assert 0 < shown.count() < 9
    shown.first.locator("summary").click()
    image = shown.first.locator("img").first
    image.scroll_into_view_if_needed()
    page.wait_for_function("image => image.naturalHeight > 0", arg=image.element_handle())
    assert image.evaluate("image => image.naturalHeight") == 150
    for width in (390, 1400):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"cut off at {width} pixels"
    assert re.search(r"along the video, 0:00 to \d:\d\d", shown.first.inner_text())
    outside = [url for url in asked if not url.startswith(("file://", "data:"))]
    assert not wrong and not outside
    context.close()


@pytest.mark.parametrize("ending", ["mp4", "webm"])
def test_the_report_plays_the_video_at_a_moment(annotations, videos, tmp_path, browser, ending):
    """Opened from disk; a click on a moment, and one on the timeline, set the player's time."""
    out = tmp_path / "out"
    if ending == "webm":
        for file in videos.glob("*.mp4"):
            as_webm(file, tmp_path / f"{file.stem}.webm")
        videos, rows = tmp_path, annotations.read_text().replace(".mp4", ".webm")
        annotations = tmp_path / "rows.jsonl"
        annotations.write_text(rows)
    run("validate", "self", annotations, videos, out, "--report", "--model.budget", "20", "--model.verify", "true")
    page = browser.new_context(offline=True).new_page()
    page.goto(f"file://{out / 'report.html'}")
    row = page.locator("details:has(video)").first
    row.locator("summary").click()
    moment = row.locator(".moment").first
    moment.click()
    at = float(moment.get_attribute("data-at"))
    video = row.locator("video").element_handle()
    page.wait_for_function(AT, arg=[video, at])
    assert page.evaluate("video => video.duration", video) == pytest.approx(6.0, abs=0.6)
    along = row.locator(".along")
    box = along.bounding_box()
    along.click(position={"x": box["width"] / 2, "y": 5})
    assert page.evaluate("video => video.currentTime", video) == pytest.approx(3.0, abs=0.3)
    assert "without it the model gives" in row.inner_text() or "without the first" in row.inner_text()


@pytest.mark.parametrize("name", ["late.mp4", "late.webm"])
def test_a_click_finds_the_moment_of_a_file_that_starts_late(videos, tmp_path, browser, name):
    """Chromium counts from the file's own zero; moments count from the first frame."""
    source = sorted(videos.glob("needles*.mp4"))[0]
    with av.open(str(source)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    times = [5000 + 500 * number for number in range(len(frames))]
    codec, (height, width) = {"late.mp4": "libx264", "late.webm": "libvpx"}[name], frames[0].shape[:2]
    write_at(tmp_path / name, times, codec=codec, frames=frames, rate=2, height=height, width=width)
    words = ["predict", "--config", DEMO.format("self"), *QUIET, "--data.video", str(tmp_path / name), "--report"]
    words += ["--data.question", "What colour is the circle?", "--output_dir", str(tmp_path / "out")]
    assert cli.main([*words, "--model.budget", "20", "--model.verify", "true"]) == 0
    (row,) = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert row["sampling"]["starts_at"] == 5.0 and row["moments"][0]["end"] <= len(frames) / 2 + 0.1
    page = browser.new_context(offline=True).new_page()
    page.goto(f"file://{tmp_path / 'out' / 'report.html'}")
    page.locator("details summary").first.click()
    video = page.locator("video").element_handle()
    page.locator(".moment").first.click()
    page.wait_for_function(AT, arg=[video, row["moments"][0]["start"] + 5])
    assert page.evaluate("video => video.duration", video) == pytest.approx(5 + len(frames) / 2, abs=0.6), (
        "its own zero"
    )
    along = page.locator(".along").first
    along.click(position={"x": along.bounding_box()["width"] / 2, "y": 5})
    assert page.evaluate("video => video.currentTime", video) == pytest.approx(5 + len(frames) / 4, abs=0.3)
