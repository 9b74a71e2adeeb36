from types import SimpleNamespace

import numpy as np
import pytest
import torch

from checkpoints.demo.build import write_two_looks
from datamodules.announced_needles import NUMBERS, Announcement
from datamodules.needle_curriculum import FORMS, SELECTED_FORMS, NeedleCurriculum, _kept
from datamodules.needles import COLOURS, DOT, SHAPES, Needle
from flexselect.families import Qwen25VL
from tests.datamodules.test_selector_training import process


def trainer(had=0, limit=1.0):
    """One that has had so many batches."""
    return SimpleNamespace(**vars(process(had=had, limit=limit)), current_epoch=0, callback_metrics={})


@pytest.fixture
def data(checkpoint):
    data = NeedleCurriculum(Qwen25VL(str(checkpoint)), batch_size=3, steps_per_epoch=2, advance_at=0.9)
    data.trainer = trainer()
    return data


def test_batches_are_of_one_length_and_form(data):
    data.stage = len(data.stages) - 1
    batches = list(data.train_dataloader())
    assert len(batches) == 2
    for batch in batches:
        patches = data.stages[-1][0]
        assert batch["grid"][0] == patches
        assert len(batch["queries"]) == len(batch["answers"]) == len(batch["seconds_per_unit"]) == 3
        assert batch["pixel_values"].shape == (3 * patches * 4 * batch["grid"][1] * batch["grid"][2], 1176)
        letters = [len(query) > 30 for query in batch["queries"]]
        assert set(letters) == {batch["form"] == "choice"}


def test_the_same_epoch_gives_the_same_clips_and_another_one_others(data):
    first, again = (next(iter(data.train_dataloader()))["pixel_values"] for _ in range(2))
    data.trainer.current_epoch = 1
    assert torch.equal(first, again)
    assert not torch.equal(first, next(iter(data.train_dataloader()))["pixel_values"])


@pytest.mark.parametrize(("had", "limit", "left"), [(0, 1.0, 0), (1, 1.0, 1), (2, 1.0, 0), (1, 1, 0)])
def test_what_is_left_of_an_epoch(data, had, limit, left):
    """Which may be shorter than the stage has steps: then an epoch of one step is done after one."""
    every = list(data.train_dataloader())
    data.trainer = trainer(had, limit)
    rest = list(data.train_dataloader())
    assert [b["pixel_values"].tolist() for b in rest] == [b["pixel_values"].tolist() for b in every[left:]]


def test_stages_advance_with_the_metric_and_survive_a_restart(data):
    data.train_dataloader()
    assert data.stage == 0
    data.trainer.callback_metrics = {"words_accuracy": torch.tensor(0.89)}
    data.train_dataloader()
    assert data.stage == 0
    data.trainer.callback_metrics["words_accuracy"] = torch.tensor(0.95)
    data.train_dataloader()
    assert data.stage == 1
    data.stage = next(i for i, stage in enumerate(data.stages) if stage[2])
    data.train_dataloader()
    assert data.stages[data.stage][2], "a stage with letters waits for the letters too"
    restarted = NeedleCurriculum(data.family)
    restarted.load_state_dict(data.state_dict())
    assert restarted.stage == data.stage


def test_words_alone_go_on_to_longer_clips(checkpoint):
    data = NeedleCurriculum(Qwen25VL(str(checkpoint)), letters=False)
    assert not any(stage[2] for stage in data.stages)
    assert max(stage[0] for stage in data.stages) == 16


@pytest.fixture
def announced(tmp_path):
    """A curriculum of announced needles, for the model that knows small frames."""
    write_two_looks(tmp_path)
    data = NeedleCurriculum(Qwen25VL(str(tmp_path)), batch_size=1, steps_per_epoch=64, letters=False, announced=True)
    data.trainer, data.stage = trainer(), len(data.stages) - 1
    return data


def test_announced_needles_are_trained_in_frames_of_nine_tokens_and_of_one(announced):
    batches = list(announced.train_dataloader())
    assert {(batch["form"], batch["grid"][1] == 1) for batch in batches} == {(form, small) for form, small, _ in FORMS}
    words = announced.family.prompter().tokenizer
    for batch in batches:
        small, answers = batch["grid"][1] == 1, {words.decode(answer[:-1]) for answer in batch["answers"]}
        units = announced.stages[-1].coarse if small else announced.stages[-1].patches
        assert tuple(batch["grid"]) == ((units, 1, 1) if small else (units, 3, 3))
        assert answers <= ({*NUMBERS} if batch["form"] == "count" else {*COLOURS, *SHAPES, DOT})
        assert DOT not in answers or small, "asked about large frames, a shape is always visible"


def test_half_of_the_large_batches_have_few_tokens_as_after_selection(announced):
    data = NeedleCurriculum(announced.family, 2, steps_per_epoch=64, letters=False, announced=True, selected=True)
    data.trainer = trainer()
    batches = list(data.train_dataloader())
    large = [batch for batch in batches if batch["grid"][1] == 3]
    pruned = [batch for batch in large if batch["kept"]]
    assert 0.25 < len(pruned) / len(large) < 0.75
    drawn = {(batch["form"], batch["grid"][1] == 1) for batch in batches}
    assert drawn == {(form, small) for form, small, _ in SELECTED_FORMS}
    assert not any(batch["kept"] for batch in batches if batch["grid"][1] == 1)
    for kept in (kept for batch in pruned for kept in batch["kept"]):
        assert len(kept) == data.stages[0].kept and bool((kept.diff() > 0).all()) and kept[-1] < 24 * 9


def test_shapes_are_kept_first_then_dots():
    rng = np.random.default_rng(0)
    needle = Needle("ring", "red", 20, 1, 2)
    shown = [Announcement("red", 1, 2, 8, 26, needle), Announcement("blue", 0, 0, -4, 6, None)]
    of_shape, of_dots = {9 * unit + 5 for unit in (10, 11)}, {9 * unit + 5 for unit in range(4, 13)} | {0, 9, 18}
    assert {*_kept(rng, shown, 16, 2).tolist()} == of_shape
    assert {*_kept(rng, shown, 16, 12).tolist()} == of_dots
    assert len({*_kept(rng, shown, 16, 60).tolist()}) == 60 and of_dots <= {*_kept(rng, shown, 16, 60).tolist()}


def test_a_stage_of_announced_needles_waits_for_both_resolutions(announced):
    announced.stage -= 1
    assert announced.stages[0].coarse == 1, "small frames from the first stage on"
    announced.trainer.callback_metrics = {"words_accuracy": torch.tensor(0.95)}
    announced.train_dataloader()
    assert announced.stage == len(announced.stages) - 2
    announced.trainer.callback_metrics["coarse_accuracy"] = torch.tensor(0.95)
    announced.train_dataloader()
    assert announced.stage == len(announced.stages) - 1


def test_options_that_do_not_fit(checkpoint):
    for options, message in (
        ({"letters": True, "announced": True}, "set letters or announced to false"),
        ({"letters": False, "selected": True}, "for announced needles only"),
    ):
        with pytest.raises(ValueError, match=message):
            NeedleCurriculum(Qwen25VL(str(checkpoint)), **options)
