"""Teacher scores on disk: written, read, cut short, gone on with, refused."""

import shutil
from pathlib import Path

import pytest
import torch

from flexselect.families import family_of
from flexselect.loading.fingerprint import weights_hash
from flexselect.storage import score_store
from flexselect.storage.run_settings import UsageError
from flexselect.storage.score_store import ScoreStore, ScoreWriter, round_to_stored
from flexselect.training.teacher import Teacher
from tests import tiny

SETTINGS = {"weights": "a", "path": "x", "family": {"max_frames": 64}, "reference_layer": 2}


@pytest.fixture
def store(tmp_path):
    return ScoreStore.create(tmp_path / "store", SETTINGS)


def scores(seed, size=500):
    return torch.rand(size, generator=torch.Generator().manual_seed(seed)) ** 4 * 0.3


def test_what_is_written_is_read(store):
    for rank in range(2):
        writer = store.writer(rank)
        for seed in range(3):
            writer.add(f"{rank}-{seed}", scores(10 * rank + seed, 100 + seed))
    again = ScoreStore(store.folder)
    assert again.counts == (6, 0) and "1-2" in again and "1-3" not in again
    for rank in range(2):
        for seed in range(3):
            written = scores(10 * rank + seed, 100 + seed)
            assert torch.equal(again.read(f"{rank}-{seed}"), round_to_stored(written))
            torch.testing.assert_close(again.read(f"{rank}-{seed}"), written, rtol=1e-3, atol=1e-7)
    assert not list(store.folder.glob("*.pt")) and not list(store.folder.glob("*.pkl"))


def test_the_order_of_scores_survives():
    near = 0.2 * (1 + torch.arange(500) * 2e-3)
    assert torch.equal(round_to_stored(near).argsort(), near.argsort())
    assert not torch.equal((near / near.max()).bfloat16().float().argsort(stable=True).flip(0), near.argsort()), (
        "canary"
    )


def test_a_store_cut_short_by_a_kill_is_completed(store):
    writer = store.writer(0)
    writer.add("first", scores(1))
    writer.add("second", scores(2))
    index, data = store.folder / "index-0.jsonl", store.folder / "scores-0.f16"
    index.write_bytes(index.read_bytes()[:-9])  # killed while the second line was written ...
    data.write_bytes(data.read_bytes()[:-3])  # ... or a number
    again = ScoreStore.create(store.folder, SETTINGS)
    assert again.scored == {"first"}
    again.writer(0).add("second", scores(2))
    whole = ScoreStore(store.folder)
    assert whole.scored == {"first", "second"}
    assert torch.equal(whole.read("first"), round_to_stored(scores(1)))
    assert torch.equal(whole.read("second"), round_to_stored(scores(2)))


def test_a_clip_without_scores_says_why_until_it_has_some(store):
    store.writer(0).fail("clip", "gone.mp4: no such file")
    again = ScoreStore(store.folder)
    assert "clip" in again and not again.scored and again.error("clip") == "gone.mp4: no such file"
    store.writer(1).add("clip", scores(3))
    store.writer(2).fail("clip", "an old line")
    assert ScoreStore(store.folder).error("clip") is None and ScoreStore(store.folder).counts == (1, 0)


def test_other_settings_are_refused_with_both_values(store):
    moved = {**SETTINGS, "path": "elsewhere"}
    ScoreStore.create(store.folder, moved)
    for other, output in (
        ({"reference_layer": 3}, "reference_layer was 2, is 3"),
        ({"weights": "b", "path": "y"}, "weights was a, is b; model at x, at y"),
        ({"family": {"max_frames": 32}}, "family.max_frames was 64, is 32"),
    ):
        with pytest.raises(UsageError, match=output):
            ScoreStore.create(store.folder, {**SETTINGS, **other})


def test_what_is_no_store_or_cut_short_is_named(store, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is no store of teacher scores"):
        ScoreStore(tmp_path / "nowhere")
    store.writer(0).add("clip", scores(1))
    data = store.folder / "scores-0.f16"
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"scores-0\.f16 is cut short"):
        ScoreStore(store.folder).read("clip")


@pytest.mark.parametrize("bad", [torch.tensor([0.1, float("nan")]), torch.zeros(3)])
def test_scores_that_mean_nothing_are_not_written(store, bad):
    with pytest.raises(ValueError, match="NaN or all zero"):
        store.writer(0).add("clip", bad)
    assert not list(store.folder.glob("scores-*"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device here")
def test_a_full_disk_is_named(tmp_path):
    with pytest.raises(OSError, match=r"/dev/full: No space left.*call again to go on"):
        ScoreWriter(Path("/dev/full"), tmp_path / "index-0.jsonl").add("clip", scores(1))
    assert not (tmp_path / "index-0.jsonl").exists(), "no line without its scores"


def test_settings_tell_models_layers_and_frames_apart(checkpoint, tmp_path):
    family = family_of(str(checkpoint))
    base = Teacher(family).settings("question")
    moved = shutil.copytree(checkpoint, tmp_path / "moved")
    same = Teacher(family_of(str(moved))).settings("question")
    assert {**same, "path": ""} == {**base, "path": ""}, "the same wherever it lies"
    others = [
        Teacher(family, reference_layer=1).settings("question"),
        Teacher(family, reduction="mean").settings("question"),
        Teacher(family, dtype="float32").settings("question"),
        Teacher(family, units_per_set=32).settings("question"),
        Teacher(family_of(str(checkpoint), max_frames=8)).settings("question"),
        Teacher(family).settings("question_and_answer"),
        Teacher(family_of(str(tiny.qwen2_5_vl(shutil.copytree(checkpoint, tmp_path / "other"), seed=1)))).settings(
            "question"
        ),
    ]
    assert all(score_store.describe_differences(base, other) for other in others)
    with pytest.raises(ValueError, match="between 0 and 3 for this model, got 4"):
        Teacher(family, reference_layer=4)


def test_hash_of_weights(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    assert weights_hash(str(folder)) == weights_hash(str(checkpoint))
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert weights_hash(str(folder)) != weights_hash(str(checkpoint))
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors"):
        weights_hash(str(folder))
