"""The benchmarks on miniatures in their real layouts: files, prompts to the letter, scores computed by hand."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import Dataset

import cli
from datamodules.benchmarks import longvideobench, lvbench, mlvu, videomme
from datamodules.benchmarks.longvideobench import subtitle_block
from flexselect.families import family_of
from tests import miniature, tiny

ROOT = Path(__file__).parents[2]
CLASSES = {
    "VideoMME": videomme.VideoMME,
    "MLVU": mlvu.MLVU,
    "LVBench": lvbench.LVBench,
    "LongVideoBench": longvideobench.LongVideoBench,
}
DEMO = str(ROOT / "checkpoints" / "demo" / "video_llm")


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module", params=CLASSES)
def bench(request, tmp_path_factory):
    """Name and folder of each miniature: being on that list is being tested."""
    return request.param, miniature.BUILDERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    return {name: build(tmp_path_factory.mktemp(name)) for name, build in miniature.BUILDERS.items()}


def opened(name, root, family=None, **options):
    return CLASSES[name](family or family_of(DEMO), str(root), num_workers=0, **options)


def validate(name, root, out, *more):
    arguments = ["validate", "--config", "configs/demo/self.yaml", "--output_dir", str(out)]
    arguments += ["--data", f"datamodules.benchmarks.{name.lower()}.{name}", "--data.root", str(root)]
    arguments += ["--data.num_workers", "0", "--trainer.enable_progress_bar", "false"]
    status = cli.main([*arguments, *more])
    results = json.loads((Path(out) / "results.json").read_text())
    rows = [json.loads(line) for line in (Path(out) / "predictions.jsonl").read_text().splitlines()]
    return status, results, rows


def test_rows_become_questions(bench):
    name, root = bench
    data = opened(name, root)
    assert len(data.questions) == 12 and len({question.key for question in data.questions}) == 12
    assert all((root / question.video).is_file() for question in data.questions)
    assert all(question.expected_letter == question.answer for question in data.questions)
    assert {len(question.options) for question in data.questions} == {4}
    assert all(question.options[0] in question.prompt for question in data.questions)
    assert len(opened(name, root, limit=5).questions) == 5


def test_scores_computed_by_hand(bench, tmp_path):
    """9 of 12 are right; of MLVU's types 3 of 3 and 6 of 9, so their mean is 5/6."""
    name, root = bench
    status, results, rows = validate(name, root, tmp_path, "--data.protocol", "plain")
    assert status == 0 and [row["correct"] for row in rows].count(True) == 9
    assert results["micro_accuracy"] == pytest.approx(0.75)
    assert results["accuracy"] == pytest.approx(5 / 6 if name == "MLVU" else 0.75)
    assert results["questions"] == 12 and results["errors"] == results["unparsed"] == 0
    low, high = results["interval"]
    assert low <= results["accuracy"] <= high
    if name == "MLVU":
        shares = results["groups"]["task_type"]
        assert shares["plotQA"]["accuracy"] == 1.0 and shares["needle"]["accuracy"] == pytest.approx(2 / 3)
    if name == "VideoMME":
        assert {value: share["questions"] for value, share in results["groups"]["duration"].items()} == {
            "short": 4,
            "medium": 4,
            "long": 4,
        }
    assert {tuple(video["grid"]) for video in results["videos"].values()} == {(16, 3, 3)}
    assert all(video["frames"] == 32 and video["fps"] == 2.0 for video in results["videos"].values())
    known = results["fingerprint"]
    assert (known["frames"], known["fps"], known["units"], known["seed"]) == ([32, 32], [2.0, 2.0], [16, 16], 0)
    assert len(known["weights"]) == len(known["prompts"]) == 16 and known["packages"]["transformers"]
    assert known["visual_tokens"] == [144, 144] and known["rope"]["mrope_section"]
    assert results["settings"]["benchmark"] == name and results["settings"]["protocol"] == "plain"
    assert "| **all** | " in (tmp_path / "results.md").read_text()


def test_the_papers_protocol_runs(bench, tmp_path):
    """The demo model was never asked so; what it says is read by the paper's rule all the same."""
    name, root = bench
    status, results, rows = validate(name, root, tmp_path)
    length = {"VideoMME": 1, "LVBench": 1, "LongVideoBench": 1}.get(name, 16)
    assert status == 0 and {q.max_new_tokens for q in opened(name, root).questions} == {length}
    assert results["settings"]["protocol"] == "paper"
    for row in rows:
        assert row["parsed"] is None or row["parsed"] in "ABCD"
        assert row["correct"] == (row["parsed"] == row["expected"])
    assert results["unparsed"] == sum(row["parsed"] is None for row in rows)


def test_missing_and_corrupt_videos(bench, tmp_path):
    name, root = bench
    questions = opened(name, root).questions
    first, second = list(dict.fromkeys(question.video for question in questions))[:2]
    contents = (root / first).read_bytes(), (root / second).read_bytes()
    try:
        (root / first).unlink()
        (root / second).write_bytes(b"no video")
        with pytest.raises(FileNotFoundError, match=f"lacks 1 of 3 videos: {first}.*missing_videos record"):
            opened(name, root)
        options = ["--data.protocol", "plain", "--data.missing_videos", "record"]
        status, results, rows = validate(name, root, tmp_path, *options)
    finally:
        (root / first).write_bytes(contents[0])
        (root / second).write_bytes(contents[1])
    assert status == 3 and results["errors"] == 8 and results["micro_accuracy"] == pytest.approx(3 / 12)
    reasons = {row["video"]: row["error"] for row in rows if row["error"]}
    assert "no such file" in reasons[first] and "is not a video" in reasons[second]


def test_what_was_looked_for_is_named(bench, tmp_path):
    name, _ = bench
    with pytest.raises(FileNotFoundError, match=r"nowhere is no folder; download the data set"):
        opened(name, tmp_path / "nowhere")
    with pytest.raises(
        FileNotFoundError,
        match=rf"no table of questions in .*; looked for .*{CLASSES[name].form.tables[0].partition('*')[0]}",
    ):
        opened(name, tmp_path)
    with pytest.raises(ValueError, match="limit must be at least 1"):
        opened(name, tmp_path, limit=0)


SELECT = "Select the best answer to the following multiple-choice question based on the video"
ONLY = " Respond with only the letter (A, B, C, or D) of the correct option."
DIRECTLY = "Answer with the option's letter from the given choices directly."


def prompts(name, root, family=None, **options):
    question = opened(name, root, family, **options).questions[0]
    return question.prompt, question


def other_family(name, folder):
    (folder / name).mkdir()
    return family_of(str(tiny.BUILDERS[name](folder / name)))


def test_prompts_of_the_paper_to_the_letter(roots, tmp_path):
    llava, internvl = other_family("llava_video", tmp_path), other_family("internvl", tmp_path)
    for family, ending in ((None, "\n" + DIRECTLY), (internvl, "\n" + DIRECTLY), (llava, "The best answer is:")):
        text, question = prompts("VideoMME", roots["VideoMME"], family)
        options = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", question.options))
        assert text == f"{SELECT} and the subtitles.{ONLY}\n{question.question}\n{options}\n{ending}"
        text, question = prompts("LVBench", roots["LVBench"], family)
        asked = json.loads((roots["LVBench"] / "test.jsonl").read_text().splitlines()[0])["question"]
        for letter in "ABCD":
            asked = asked.replace(f"({letter})", letter)
        assert text == f"{SELECT}.{ONLY}\n{asked}\n{ending}" and "\nA " in text
        text, question = prompts("MLVU", roots["MLVU"], family)
        best = "Answer with the best option's letter from the given choices directly."
        assert text == f"\n{question.question}\n{best}\nBest option: ("
        text, question = prompts("LongVideoBench", roots["LongVideoBench"], family)
        options = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCDE", question.options))
        assert text == f"{question.question}\n{options}\n{DIRECTLY}\n"


def test_prompts_of_lmms_eval_to_the_letter(roots, tmp_path):
    """As lmms-eval 0.7.3 wrote them when it was asked; every family gets the same."""
    llava, internvl = other_family("llava_video", tmp_path), other_family("internvl", tmp_path)
    for family in (None, internvl, llava):
        text, question = prompts("VideoMME", roots["VideoMME"], family, protocol="lmms")
        listed = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", question.options))
        assert text == f"{SELECT} and the subtitles.{ONLY}\n{question.question}\n{listed}\n\n{DIRECTLY}"
        assert (question.max_new_tokens, question.extractor) == (16, "ranked")
        text, question = prompts("LVBench", roots["LVBench"], family, protocol="lmms")
        asked = json.loads((roots["LVBench"] / "test.jsonl").read_text().splitlines()[0])["question"]
        assert text == f"{asked}\nAnswer the question with the option letter" and "\n(A) " in text
        text, question = prompts("MLVU", roots["MLVU"], family, protocol="lmms")
        assert text == f"{question.question}\nOnly give the best option.\nBest option: ("
        text, question = prompts("LongVideoBench", roots["LongVideoBench"], family, protocol="lmms")
        listed = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", question.options))
        assert text == f"{question.question}\n{listed}\n{DIRECTLY}\n" and question.max_new_tokens == 32
    with pytest.raises(ValueError, match="lmms-eval has no task of videos with subtitles"):
        opened("LongVideoBench", roots["LongVideoBench"], protocol="lmms", with_subtitles=True)


def test_defects_can_be_repaired(bench):
    """Each is data: what it changes is seen, all else is the same."""
    name, root = bench
    (_, paper), kind = prompts(name, root), CLASSES[name]
    form = kind.form
    for defect, mended in form.defects.items():
        data = opened(name, root, repair=[defect])
        assert data.settings["repair"] == [defect] and data.format.protocol == replace(
            form.protocols["paper"], **mended
        )
        assert mended == {} or data.questions[0] != paper
    with pytest.raises(ValueError, match="repair must be one of"):
        opened(name, root, repair=["other"])
    for defect in form.defects:
        with pytest.raises(ValueError, match="repair is for the defects of the paper protocol, not for 'plain'"):
            opened(name, root, repair=[defect], protocol="plain")
    if name == "VideoMME":
        assert "the video. Respond" in prompts(name, root, repair=["says_subtitles"])[0]
    if name == "LongVideoBench":
        assert prompts(name, root, with_subtitles=True, repair=["dots"])[0].startswith("this is clip 0\n")


def test_answers_without_a_letter_are_wrong_or_drawn(roots):
    (question, *_), (drawn, *_) = (
        opened("LongVideoBench", roots["LongVideoBench"], unparsed=unparsed).questions
        for unparsed in ("wrong", "random")
    )
    assert not question.is_right("no idea") and question.chosen("no idea") is drawn.chosen("no idea") is None
    answers = [f"no idea {i}" for i in range(400)]
    hits = [drawn.is_right(answer) for answer in answers]
    assert (
        hits == [drawn.is_right(answer) for answer in answers] and 60 < sum(hits) < 140
    )  # a quarter, and the same each time
    assert drawn.is_right(drawn.answer)


def test_a_drawn_letter_is_recorded(roots, tmp_path):
    status, results, rows = validate(
        "MLVU", roots["MLVU"], tmp_path, "--data.protocol", "lmms", "--data.unparsed", "random"
    )
    drawn = [row for row in rows if row["parsed"] is None]
    assert status == 0 and drawn and results["unparsed"] == len(drawn)
    assert all(row["correct"] == (row["drawn"] == row["expected"]) for row in drawn)
    assert all(row["drawn"] is None for row in rows if row["parsed"])
    assert "answers without a letter count as a letter drawn by chance" in (tmp_path / "results.md").read_text()


@pytest.mark.parametrize("more", [["--data.with_subtitles", "true"], ["--data.repair", "one_token"]])
def test_how_questions_are_put_is_never_mixed_in_one_folder(roots, tmp_path, more, capsys):
    assert validate("LongVideoBench", roots["LongVideoBench"], tmp_path)[0] == 0
    assert validate("LongVideoBench", roots["LongVideoBench"], tmp_path, *more)[0] == 2
    assert "holds answers of a run with other settings" in capsys.readouterr().err


def test_another_table_is_another_run(roots, tmp_path, capsys):
    other = miniature.mlvu(tmp_path / "other")
    table = str(next(other.rglob("*.parquet")))
    Dataset.from_list(Dataset.from_parquet(table).to_list()[:8]).to_parquet(table)
    assert validate("MLVU", roots["MLVU"], tmp_path / "out")[0] == 0
    assert validate("MLVU", other, tmp_path / "out")[0] == 2
    assert "table was" in capsys.readouterr().err


def test_the_table_of_another_benchmark(roots):
    with pytest.raises(ValueError, match=r"has no column '\w+': it is not the table of VideoMME"):
        opened("VideoMME", roots["MLVU"] / "mlvu")


def test_videos_are_found_in_whatever_folder_they_are(roots, tmp_path):
    (tmp_path / "videomme").symlink_to(roots["VideoMME"] / "videomme")
    (tmp_path / "unpacked" / "here").mkdir(parents=True)
    for video in (roots["VideoMME"] / "data").iterdir():
        (tmp_path / "unpacked" / "here" / video.name).symlink_to(video)
    result = {question.video for question in opened("VideoMME", tmp_path).questions}
    assert result == {f"unpacked/here/v{i}{ending}" for i, ending in enumerate(miniature.ENDINGS)}


def test_subtitles_before_the_question(roots):
    root = roots["LongVideoBench"]
    text, _ = prompts("LongVideoBench", root, with_subtitles=True)
    assert text.startswith("....this is clip 0")
    plain = prompts("LongVideoBench", root)[0]
    assert text.endswith("\n" + plain) and text != plain
    (root / "subtitles" / "clip0_en.json").rename(root / "subtitles" / "away")
    with pytest.raises(FileNotFoundError, match=r"clip0_en\.json: no such file"):
        opened("LongVideoBench", root, with_subtitles=True)
    (root / "subtitles" / "away").rename(root / "subtitles" / "clip0_en.json")


def test_options_that_are_not_there(roots):
    form = opened("LongVideoBench", roots["LongVideoBench"]).format
    table = Dataset.from_parquet(str(form.table()))
    question = form.question({**table[0], "option1": "N/A", "option3": "N/A", "correct_choice": 1})
    assert len(question.options) == 2 and question.answer == "B"


def test_subtitle_block():
    """Moments 0, 1, 2, 3 (four seconds): those up to a line's middle leave an empty part, lines that cover one stay."""
    lines = [{"timestamp": [10.5, 11.5], "text": "one"}, {"timestamp": [12.1, 12.3], "text": "two"}]
    assert subtitle_block(lines, 4.0, 10.0).split(".") == ["", "", "one", "", "two"]
    clock = [{"start": "0:00:00.5", "end": "0:00:01.5", "line": "one"}]
    assert subtitle_block(clock, 4.0, 0.0).split(".") == ["", "", "one"]
    long = [{"timestamp": [50.0, 52.0], "text": "seen"}, {"timestamp": [63.0, 63.2], "text": "between"}]
    parts = subtitle_block(long, 640.0, 0.0).split(".")  # moments every ten seconds
    assert "between" not in parts and "seen" not in parts and parts == [""] * 7
    assert subtitle_block([{"timestamp": [49.0, 52.0], "text": "seen"}], 640.0, 0.0).split(".")[-1] == "seen"


def test_an_lvbench_table_of_the_hub(roots, tmp_path):
    """Parquet instead of JSONL."""
    rows = [json.loads(line) for line in (roots["LVBench"] / "test.jsonl").read_text().splitlines()]
    Dataset.from_list(rows).to_parquet(tmp_path / "test-00000-of-00001.parquet")
    (tmp_path / "data").symlink_to(roots["LVBench"] / "data")
    assert prompts("LVBench", tmp_path)[0] == prompts("LVBench", roots["LVBench"])[0]


@pytest.mark.parametrize("protocol", ["paper", "lmms", "plain"])
def test_the_authors_own_layout_gives_the_same_questions(bench, tmp_path, protocol):
    name, root = bench
    if name not in miniature.AUTHORS:
        pytest.skip(f"{name} has one layout")
    expected = opened(name, miniature.as_its_authors_give_it(name, root, tmp_path), protocol=protocol)
    hub = opened(name, root, protocol=protocol)

    def known(data):
        return sorted((q.id, q.text, q.expected, q.options, q.groups, q.error) for q in data.questions)

    assert known(expected) == known(hub) and len(expected.questions) == 12
    assert all((tmp_path / question.video).is_file() for question in expected.questions)


def test_an_answer_that_is_no_candidate_is_an_error_of_its_row(roots, tmp_path):
    root = miniature.as_its_authors_give_it("MLVU", roots["MLVU"], tmp_path)
    table = root / "json" / "1_plotQA.json"
    rows = json.loads(table.read_text())
    rows[0]["answer"] = "none of them"
    table.write_text(json.dumps(rows))
    errors = [question.error for question in opened("MLVU", root).questions if question.error]
    assert errors == ["the answer 'none of them' is none of its candidates"]


def test_pixels_as_decord_has_them_are_another_run(roots):
    plain, stored = (opened("VideoMME", roots["VideoMME"], square_pixels=square) for square in (True, False))
    assert "square_pixels" not in plain.settings and stored.settings["square_pixels"] is False
    assert all(not question.reading.square_pixels for question in stored.questions)


def test_a_sixth_option_is_asked_too(roots):
    """Letters are given to every option, or the table is refused; none is left out in silence."""
    form = opened("VideoMME", roots["VideoMME"], protocol="plain").format
    row = Dataset.from_parquet(str(form.table()))[0]
    six = form.to_question({**row, "options": [f"{letter}. thing {letter}" for letter in "ABCDEF"], "answer": "F"})
    assert "\nF. thing F\n" in six.prompt and six.is_right("F")
    with pytest.raises(ValueError, match="has 27 options; letters end at Z"):
        form.to_question({**row, "options": [f"A. thing {i}" for i in range(27)]})


def test_a_row_that_is_no_question_is_named(tmp_path, checkpoint, caplog):
    """Values of other types than the table has; and an answer that is none of the options, which counts as before."""
    root = miniature.BUILDERS["VideoMME"](tmp_path)
    (table,) = root.rglob("*.parquet")
    rows = Dataset.from_parquet(str(table), cache_dir=str(tmp_path / "cache")).to_list()
    Dataset.from_list([rows[0], {**rows[1], "answer": "Z"}, *rows[2:]]).to_parquet(str(table))
    with caplog.at_level(logging.WARNING):
        questions = videomme.VideoMME(family_of(str(checkpoint)), str(root)).questions
    assert len(questions) == len(rows) and not questions[1].is_right("Z")
    assert "1 answers are none of their options and will count as wrong; the first: question" in caplog.text
    Dataset.from_list([{**row, "options": None if row is rows[1] else row["options"]} for row in rows]).to_parquet(
        str(table)
    )
    with pytest.raises(ValueError, match=r"row 2 of .*parquet is no question of VideoMME: "):
        videomme.VideoMME(family_of(str(checkpoint)), str(root))
