"""Runs that share a table without a coordinator, and `merge`: together they are one run, row by row."""

import json
import re
import shutil
from pathlib import Path

import pytest

import cli
from datamodules.needles import write_needle_videos
from flexselect.evaluation.parquet import write_parquet
from flexselect.storage.shard import Shard, parse
from lightning_modules.video_qa import VideoQA

ROOT = Path(__file__).parents[1]
COUNT = 3


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """Five videos with three questions each; the rows of a video are apart, and one row cannot be asked."""
    folder = tmp_path_factory.mktemp("table")
    write_needle_videos(folder, videos=5, patches=6, needles=3, questions=3, seed=1)
    lines = [json.loads(line) for line in (folder / "annotations.jsonl").read_text().splitlines()]
    lines = [lines[i] for i in (*range(0, 15, 3), *range(1, 15, 3), *range(2, 15, 3))]
    lines[7]["question"] = " "
    (folder / "annotations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "annotations.jsonl"


@pytest.fixture(scope="module")
def call(checkpoint, table):
    """`call("validate", folder, ...)` on the tiny random model; returns the exit status."""

    def call(verb: str, folder: Path, *more: str) -> int:
        model = ["--config", "configs/demo/self.yaml", "--family.path", str(checkpoint)]
        data = ["--data.annotations", str(table), "--data.num_workers", "0"]
        return cli.main([verb, *model, *data, "--output_dir", str(folder), *more])

    return call


@pytest.fixture(scope="module")
def runs(call, tmp_path_factory):
    """One run of `validate`, and its shards: the second was stopped after two rows, and called again."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert call("validate", folder / "one") == 3
        assert call("validate", folder / "2", "--data.shard", "2/3", "--trainer.limit_val_batches", "2") == 0
        for number in range(1, COUNT + 1):
            assert call("validate", folder / f"{number}", "--data.shard", f"{number}/3") == (3 if number == 3 else 0)
    return folder


def shards(folder: Path) -> list[str]:
    return [str(folder / f"{number}") for number in range(1, COUNT + 1)]


def rows(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "timings"} for line in lines]


def test_a_shard_has_whole_videos_and_every_row_is_in_one():
    table = [(video, f"{video}{i}") for i in range(4) for video in "abcde"]
    parts = [Shard.of(f"{number}/3", "hash", table).positions for number in (1, 2, 3)]
    assert sorted(place for part in parts for place in part.values()) == list(range(20))
    assert [{key[0] for key in part} for part in parts] == [{"a", "d"}, {"b", "e"}, {"c"}]
    assert all(table[place][1] == key for part in parts for key, place in part.items())


def test_appended_rows_move_no_video():
    table = [(video, video) for video in "abcde"]
    for name in ("1/3", "2/3", "3/3"):
        before, after = (Shard.of(name, "", rows).positions for rows in (table, [*table, ("f", "f"), ("a", "a2")]))
        assert before.items() <= after.items()


@pytest.mark.parametrize("name", ["", "3", "0/3", "4/3", "1/0", "-1/3", "1/3/5", "a/b", "1.5/3"])
def test_what_is_no_shard(name):
    with pytest.raises(ValueError, match=r"--data\.shard .*give i/n"):
        parse(name)


def test_more_shards_than_videos_are_refused(call, tmp_path, capsys):
    assert call("predict", tmp_path / "out", "--data.shard", "1/6") == 2
    assert "--data.shard 1/6: there are 5 videos, which 6 shards cannot share" in capsys.readouterr().err


def test_merged_shards_are_one_run(runs, tmp_path, capsys):
    """The same rows in the same order, and byte by byte the same results and settings."""
    merged = tmp_path / "new" / "one"  # results.md is headed by the folder's name
    assert cli.main(["merge", *reversed(shards(runs)), "--output_dir", str(merged)]) == 3
    assert "one: 14 answers, 1 errors\nall questions  accuracy" in capsys.readouterr().out
    assert rows(merged) == rows(runs / "one") and len(rows(merged)) == 15
    for name in ("results.json", "results.md", "settings.json"):
        assert (merged / name).read_bytes() == (runs / "one" / name).read_bytes(), name
    assert sorted(file.name for file in merged.iterdir()) == sorted(file.name for file in (runs / "one").iterdir())
    assert [file.name for file in merged.parent.iterdir()] == ["one"], "nothing is left of the folder it was made in"
    in_order = [row for folder in shards(runs) for row in rows(Path(folder))]
    assert in_order != rows(merged), "canary: the shards' rows have another order"


def test_parquet_has_every_value_of_the_lines(runs, call, tmp_path, monkeypatch):
    """Nothing is asked again: the rows of a run that has ended become a table, and so do merged ones."""
    from pyarrow import parquet

    out = Path(shutil.copytree(runs, tmp_path / "runs"))
    monkeypatch.setattr(VideoQA, "_open", None)
    lines = rows(out / "1")
    row = {**lines[0], "id": "half \ud83d", "verification": {"cited": 1}, "drawn": "A", "absent": True}
    write_parquet(tmp_path / "odd.parquet", [row])
    assert set(row) | {"timings"} == set(parquet.read_schema(tmp_path / "odd.parquet").names)
    (read,) = parquet.read_table(tmp_path / "odd.parquet").to_pylist(maps_as_pydicts="strict")
    assert read["id"] == "half \ufffd" and json.loads(read["verification"]) == {"cited": 1} and read["absent"]
    assert call("validate", out / "1", "--data.shard", "1/3", "--writer.format", "parquet") == 0
    assert cli.main(["merge", *shards(out), "--output_dir", str(out / "merged")]) == 3
    for folder in (out / "1", out / "merged"):
        table = parquet.read_table(folder / "predictions.parquet").to_pylist(maps_as_pydicts="strict")
        whole = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
        assert len(table) == len(whole)
        for cells, line in zip(table, whole):
            cells |= {name: json.loads(cells[name] or "null") for name in ("sampling", "verification", "grounding")}
            cells["moments"] = [{k: v for k, v in moment.items() if v is not None} for moment in cells["moments"]]
            line["expected"] = [line["expected"]]
            assert {name: cells[name] for name in line} == line
            assert all(cells[name] is None for name in set(cells) - set(line))
    assert not (out / "2" / "predictions.parquet").exists()


def test_a_merged_folder_is_a_run_to_go_on_with(runs, call, tmp_path, monkeypatch):
    assert cli.main(["merge", *shards(runs), "--output_dir", str(tmp_path / "merged")]) == 3
    asked = []
    monkeypatch.setattr(VideoQA, "_open", lambda self, item: asked.append(item.question.id))
    assert call("validate", tmp_path / "merged") == 3 and not asked


def test_a_shards_folder_takes_no_other_shard(runs, call, capsys):
    assert call("validate", runs / "1", "--data.shard", "2/3") == 2
    assert "shard was 1/3, is 2/3" in capsys.readouterr().err
    assert call("validate", runs / "1") == 2
    assert "shard was 1/3, is the default" in capsys.readouterr().err


def edit(folder: Path, file: str, **changes) -> None:
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, **changes}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda out: ["1", "3"], "missing: shard 2/3; name the folders of all shards"),
        (lambda out: ["1", "2", "2", "3"], "are both shard 2/3: name each shard once"),
        (lambda out: [shutil.copytree(out / "1", out / "copy").name, "1", "2", "3"], "copy and .*1 are both shard 1/3"),
        (lambda out: ["1", "2", "3", "4"], "4: no such folder"),
        (lambda out: (out / "2" / "shard.json").unlink(), "2 has no shard.json, .*: if it was stopped, call it again"),
        (
            lambda out: (out / "2" / "shard.json").write_text("{"),
            "shard.json is damaged .*: call the shard's run again",
        ),
        (
            lambda out: edit(out / "2", "shard.json", name="2/4"),
            "2 is shard 2/4, .*1 is shard 1/3: merge shards of one",
        ),
        (
            lambda out: edit(out / "3", "shard.json", table="0"),
            "1 and .*3 are shards of different tables: call the old",
        ),
        (
            lambda out: edit(out / "3", "settings.json", budget=8),
            r"1 and .*3 have other settings \(budget was 9, is 8",
        ),
        (lambda out: edit(out / "3", "shard.json", verb="predict"), "verb was validate, is predict"),
        (
            lambda out: (out / "3" / "predictions.jsonl").write_text(""),
            "3 lacks 3 of the 3 rows of its shard: call it again",
        ),
        (lambda out: (out / "merged").mkdir() or (out / "merged" / "x").touch(), "merged is there already"),
    ],
)
def test_what_cannot_be_merged(runs, tmp_path, capsys, change, message):
    out = Path(shutil.copytree(runs, tmp_path / "runs"))
    merged = out / "merged"
    folders = change(out)
    folders = folders if isinstance(folders, list) else ["1", "2", "3"]
    assert cli.main(["merge", *(str(out / name) for name in folders), "--output_dir", str(merged)]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not (merged / "predictions.jsonl").exists()


def test_other_weights_are_refused_and_other_packages_are_written_down(runs, tmp_path, capsys):
    out = Path(shutil.copytree(runs, tmp_path / "runs"))
    fingerprint = json.loads((out / "2" / "shard.json").read_text())["fingerprint"]
    packages = {**fingerprint["packages"], "torch": "9.9"}
    edit(out / "2", "shard.json", fingerprint={**fingerprint, "packages": packages})
    assert cli.main(["merge", *shards(out), "--output_dir", str(out / "merged")]) == 3
    written = json.loads((out / "merged" / "results.json").read_text())["fingerprint"]["packages"]
    assert written["torch"] == f"{fingerprint['packages']['torch']} and 9.9"
    edit(out / "2", "shard.json", fingerprint={**fingerprint, "weights": "another"})
    assert cli.main(["merge", *shards(out), "--output_dir", str(out / "again")]) == 2
    assert "weights was" in capsys.readouterr().err


def scoring(checkpoint: Path, table: Path, folder: Path, verb="predict", config="teacher_scores") -> list[str]:
    data = ["--data.annotations", str(table), "--data.val_annotations", str(table), "--data.num_workers", "0"]
    model = ["--config", f"configs/demo/{config}.yaml", "--family.path", str(checkpoint), "--family.max_frames", "4"]
    return [verb, *model, *data, "--output_dir", str(folder), "--trainer.enable_progress_bar", "false"]


def test_merged_teacher_scores_are_one_run(checkpoint, table, tmp_path, capsys):
    """Byte by byte: numbers, index and settings."""
    lines = [line for line in table.read_text().splitlines() if json.loads(line)["question"].strip()]
    (tmp_path / "bad.mp4").write_text("no video")
    lines += [json.dumps({"video": str(tmp_path / "bad.mp4"), "question": "Why?", "answer": "So."})]
    table = table.with_name("clips.jsonl")
    table.write_text("\n".join(lines))
    statuses = [
        cli.main([*scoring(checkpoint, table, tmp_path / f"{number}"), "--data.shard", f"{number}/3"])
        for number in (1, 2, 3)
    ]
    assert statuses == [0, 0, 3] and cli.main(scoring(checkpoint, table, tmp_path / "one")) == 3
    assert cli.main(["merge", *shards(tmp_path), "--output_dir", str(tmp_path / "merged")]) == 3
    assert "merged: 14 clips have scores, 1 have none" in capsys.readouterr().out
    for name in ("scores-0.f16", "index-0.jsonl", "settings.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name
    assert cli.main([*scoring(checkpoint, table, tmp_path / "1"), "--data.shard", "2/3"]) == 2
    assert "shard was 1/3, is 2/3" in capsys.readouterr().err


def test_a_training_takes_no_shard(checkpoint, table, tmp_path, capsys):
    words = scoring(checkpoint, table.with_name("clips.jsonl"), tmp_path, "fit", "train_selector")
    assert cli.main([*words, "--data.shard", "1/3", "--model.start", "null"]) == 2
    assert "a training needs all clips" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "missing: the shards' folders, or --output_dir; for example merge OUT/1"),
        (["a", "--output_dri", "x"], "merge has no option --output_dri; did you mean --output_dir?"),
        (["a", "--output_dir"], "--output_dir"),
        (["a"], "missing: the shards' folders, or --output_dir"),
    ],
)
def test_words_of_merge(words, message, capsys):
    assert cli.main(["merge", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
