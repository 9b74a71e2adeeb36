"""Files that earlier versions wrote are read: `tests/earlier` keeps some of every kind, and how they were made."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import cli
from flexselect import FlexSelect
from flexselect.storage.feature_cache import FeatureCache
from tests.earlier import write

ROOT = Path(__file__).parents[1]
QUIET = ["--trainer.enable_progress_bar", "false"]


VERSIONS = [folder.parent.name for folder in ROOT.glob("tests/earlier/*/expected.json")]


@pytest.fixture(params=VERSIONS)
def there(request, tmp_path, monkeypatch):
    """A copy of what a version wrote, from where the demo's model is found."""
    monkeypatch.chdir(ROOT)
    return Path(shutil.copytree(ROOT / "tests" / "earlier" / request.param, tmp_path / "written"))


def load(**options) -> FlexSelect:
    return FlexSelect.from_pretrained(write.MODEL, dtype="float32", device="cpu", budget=12, **options)


def table(there) -> list[str]:
    return ["--data.annotations", str(there / "annotations.jsonl"), "--data.num_workers", "0", *QUIET]


def test_a_session(there):
    session = load(selector="self").load_session(there / "session.safetensors")
    assert session.num_bytes["scores_kv"] > 0, "keys and values, too"
    expected = json.loads((there / "expected.json").read_text())
    answer = session.ask(expected["question"])
    assert answer.text == expected["answer"]
    assert len({*answer.selection.kept.tolist()} & {*expected["kept"]}) >= 11, "ties in the last place may differ"


def test_a_feature_cache(there, monkeypatch):
    os.utime(there / "clip.mp4", (write.TIME, write.TIME))
    fs = load(selector="self")
    fresh = fs.open(str(there / "clip.mp4")).encode()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "resolve", lambda self, strict=False: write.PLACE)
        kept = FeatureCache(there / "cache", 1, {"model": "demo"}).get(there / "clip.mp4", fresh.prefix_ids)
        other = FeatureCache(there / "cache", 1, {"model": "another"}).get(there / "clip.mp4", fresh.prefix_ids)
    assert kept is not None and kept.grid == fresh.grid and other is None, "canary: of another model"
    torch.testing.assert_close(kept.features, fresh.features, atol=1e-4, rtol=1e-4)


def test_answers_and_settings(there, caplog):
    before = json.loads((there / "validate" / "results.json").read_text())
    out = ["--output_dir", str(there / "validate")]
    assert cli.main(["validate", "--config", "configs/demo/self.yaml", *table(there), *out]) == 0
    assert "4 of 4 questions were answered by an earlier run" in caplog.text
    after = json.loads((there / "validate" / "results.json").read_text())
    for name in ("accuracy", "questions", "errors", "groups", "settings"):
        assert after[name] == before[name], name
    other = ["--model.budget", "7"]
    assert cli.main(["validate", "--config", "configs/demo/self.yaml", *table(there), *out, *other]) == 2, "canary"


def test_stored_teacher_scores(there, caplog):
    config = ["--config", "configs/demo/teacher_scores.yaml", "--data.val_annotations", "null"]
    assert cli.main(["predict", *config, *table(there), "--output_dir", str(there / "scores")]) == 0
    assert "4 clips were scored by an earlier run" in caplog.text


def test_a_selector(there):
    fs = load(selector=str(there / "fit" / "selector"))
    selection = fs.open(str(there / "clip.mp4")).select(write.QUESTION)
    assert len(selection.kept) == 12 and selection.scores.isfinite().all()


def test_a_checkpoint_is_exported_and_gone_on_with(there, caplog):
    checkpoint, out = there / "fit" / "checkpoints" / "last.ckpt", there / "again"
    assert cli.main(["export", "--ckpt_path", str(checkpoint), "--output", str(out)]) == 0
    again, before = load_file(out / "model.safetensors"), load_file(there / "fit" / "selector" / "model.safetensors")
    assert again.keys() == before.keys() and all(torch.equal(again[name], before[name]) for name in before)
    configs = [json.loads((folder / "config.json").read_text()) for folder in (out, there / "fit" / "selector")]
    now, then = ({name: value for name, value in config.items() if "version" not in name} for config in configs)
    texts = now.pop("text_config"), then.pop("text_config")
    assert now == then and then["training"]
    shared = texts[0].keys() & texts[1].keys()  # transformers writes more or fewer of its own fields, by its version
    assert len(shared) > 15 and all(texts[0][name] == texts[1][name] for name in shared)
    fit = [*write.fit(there), "--trainer.max_epochs", "3"]
    assert cli.main([*fit, *QUIET, "--output_dir", str(there / "fit")]) == 0
    assert f"going on from {checkpoint}" in caplog.text
    assert torch.load(checkpoint, weights_only=True)["global_step"] > 1
