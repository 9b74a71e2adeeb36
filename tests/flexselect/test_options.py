"""Every option is there once, is checked before weights are loaded, and is known wherever options are taken."""

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

from flexselect import FlexSelect
from flexselect.families import FAMILIES, family_of, numbers_of
from flexselect.options import (
    AskingOptions,
    LoadingOptions,
    OptionNames,
    Options,
    ScoringOptions,
    option_names,
    options_that_change_answers,
)
from flexselect.serving.serve import serve
from flexselect.storage.run_settings import UsageError
from flexselect.training.teacher import Teacher
from lightning_modules.locating import Locating
from lightning_modules.teacher_scoring import TeacherScoring
from lightning_modules.video_qa import VideoQA
from tests import tiny
from tests.processes import copy_tree, run_copy

ROOT = Path(__file__).parents[2]
WRONG = [
    ("dtype", "float8", "dtype must be one of bfloat16, float16, float32, got 'float8'"),
    ("quantization", "2bit", "quantization must be one of 4bit, 8bit, got '2bit'"),
    ("cache_implementation", "dynamic", "cache_implementation must be one of static, got 'dynamic'"),
    ("budget", 0, "budget must be at least 1 visual token, got 0"),
    ("budget", 2.5, "budget must be an integer, got 2.5"),
    ("budget", True, "budget must be an integer, got True"),
    ("compile", "no", "compile must be true or false, got 'no'"),
    ("device", "gpu", "device must be a device, one of cpu, cuda:0 and the like; got 'gpu'"),
    ("device_map", "x", "device_map must be a device, one of cpu, cuda:0, auto, balanced"),
    ("attn_implementation", "x", "attn_implementation must be one of eager, "),
    ("reference_layer", "1", "reference_layer must be an integer, got '1'"),
    ("fps", "x", "fps must be a number, got 'x'"),
    ("budget_split", "fair", "budget_split must be one of exact, released, mass, got 'fair'"),
    ("budget_mass", 0, "budget_mass must be a number above 0 and up to 1, got 0"),
    ("budget_mass", 1.1, "budget_mass must be a number above 0 and up to 1, got 1.1"),
    ("budget_mass", float("nan"), "budget_mass must be a number above 0 and up to 1, got nan"),
    ("budget_mass", True, "budget_mass must be a number above 0 and up to 1, got True"),
    ("budget_mass", "half", "budget_mass must be a number above 0 and up to 1, got 'half'"),
    ("positions", "new", "positions must be one of original, compact, got 'new'"),
    ("selector_alignment", "left", "selector_alignment must be one of released, exact, got 'left'"),
    ("units_per_set", 0, "units_per_set must be at least 1, got 0"),
    ("reduction", "median", "unknown reduction 'median'"),
    ("reference_layer", 99, "reference_layer must be between 0 and 3 for this model, got 99"),
    ("fsp", 1, "no option fsp; did you mean fps?"),
    ("budgett", 1, "no option budgett; did you mean budget?"),
]


@pytest.fixture
def unloaded(checkpoint, monkeypatch):
    """A checkpoint whose weights must not be loaded."""

    def load(*_):
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(type(family_of(str(checkpoint))), "load", load)
    return str(checkpoint)


@pytest.mark.parametrize(("name", "value", "said"), WRONG)
def test_a_wrong_option_is_refused_before_weights_are_loaded(unloaded, name, value, said):
    with pytest.raises(ValueError, match=said):
        FlexSelect.from_pretrained(unloaded, selector="self", **{name: value})
    if name in ("fsp", "budgett", "fps", "device"):
        return
    with pytest.raises(ValueError, match=said):
        VideoQA(family_of(unloaded), selector="self", **{name: value})
    for module, options in ((Locating, LoadingOptions), (TeacherScoring, ScoringOptions)):
        if name in option_names(options):
            with pytest.raises(ValueError, match=said):
                module(family_of(unloaded), **{name: value})


def test_a_selector_that_is_not_there_is_refused_before_weights_are_loaded(unloaded):
    with pytest.raises(FileNotFoundError, match="nowhere/selector"):
        FlexSelect.from_pretrained(unloaded, selector="nowhere/selector")
    with pytest.raises(ValueError, match="selector must be one of self, uniform, random"):
        FlexSelect.from_pretrained(unloaded, selector="selv")
    with pytest.raises(AssertionError, match="weights are loaded"):  # canary
        FlexSelect.from_pretrained(unloaded, selector="self")


def test_a_number_that_a_family_does_not_have(checkpoint):
    with pytest.raises(ValueError, match=r"a Qwen25VL model has no option max_frame; did you mean max_frames\?"):
        family_of(str(checkpoint), max_frame=4)


def test_editors_know_every_option():
    """`OptionNames` is what an editor completes; `selector` is an argument of its own."""
    known = {*option_names(Options), *(number for family in FAMILIES for number in numbers_of(family))} - {"selector"}
    assert set(OptionNames.__annotations__) == known
    shown = inspect.signature(FlexSelect.from_pretrained).parameters  # what help() and notebooks show
    assert list(shown) == [
        "path",
        "selector",
        *(name for name in option_names(Options) if name != "selector"),
        "options",
    ]
    assert shown["units_per_set"].default == 64


def test_what_decides_an_answer_is_recorded():
    """The names of version 0.1's settings.json; placement and speed are not among them."""
    recorded = {"selector", "reference_layer", "budget", "units_per_set", "reduction", "budget_split", "positions"}
    recorded |= {"selector_alignment", "dtype", "attn_implementation", "quantization", "max_new_tokens"}
    assert set(options_that_change_answers(AskingOptions())) == recorded


def test_a_loaded_model_knows_its_options(load):
    fs = load(selector="self", budget=7, positions="compact", budget_split="released")
    again = fs.with_scorer(None)
    assert again.scorer is None and again.lm is fs.lm and again.options == fs.options
    assert (again.budget, again.positions, again.options.budget_split) == (7, "compact", "released")
    with pytest.raises(dataclasses.FrozenInstanceError):
        fs.options.budget = 8


def test_a_teacher_takes_the_options_of_loading(checkpoint):
    family = family_of(str(checkpoint))
    plain, spread = Teacher(family), Teacher(family, device_map="auto", quantization="4bit")
    assert spread.options.device_map == "auto"
    assert "device_map" not in spread.settings("question") and "quantization" not in plain.settings("question")
    assert spread.settings("question")["quantization"] == "4bit", "other scores: another store"


@pytest.mark.parametrize(
    "take",
    [Teacher, VideoQA, Locating, TeacherScoring, lambda family, **options: serve(family.path, **options)],
    ids=["Teacher", "VideoQA", "Locating", "TeacherScoring", "serve"],
)
def test_an_unknown_option_gets_the_nearest_name_everywhere(unloaded, take):
    with pytest.raises((ValueError, UsageError), match=r"has no option dtyp; did you mean dtype\?"):
        take(family_of(unloaded), dtyp="float32")


def test_an_option_of_open_is_told_where_it_belongs(unloaded):
    with pytest.raises(ValueError, match=r"keep is an option of open, not of from_pretrained"):
        FlexSelect.from_pretrained(str(unloaded), keep="features")


def test_an_unknown_option_of_a_loaded_model(load):
    fs = load()
    with pytest.raises(ValueError, match=r"FlexSelect has no option budgt; did you mean budget\?"):
        FlexSelect(fs.lm, fs.family, None, budgt=3)


def test_serve_takes_a_trained_selector_alone(unloaded):
    """A mode would be shown as the lite mode."""
    with pytest.raises(UsageError, match="a trained selector, not the mode 'self'"):
        serve(unloaded, selector="self", dtype="float32")
    with pytest.raises(UsageError, match="no/where"):
        serve(unloaded, selector="no/where/to/be/found", dtype="float32")


def test_a_budget_of_one_question_is_checked(load):
    with pytest.raises(ValueError, match=r"budget must be an integer, got 5\.5"):
        load(selector="self").open(tiny.frames(4)).ask("Why?", budget=5.5)


MADE_UP = """
import flexselect, cli, os
assert flexselect.__file__ == os.path.join(os.getcwd(), "flexselect", "__init__.py")
from docs import config_keys
from flexselect.options import Options
from flexselect_lmms.arguments import check_names

DEMO = "checkpoints/demo/video_llm"
fs = flexselect.FlexSelect.from_pretrained(DEMO, selector="self", dtype="float32", device="cpu", made_up=3)
assert fs.options.made_up == 3 and fs.with_scorer(None).options.made_up == 3
assert "`model.made_up`" in config_keys.page() and "`made_up`" in config_keys.page().partition("## `serve`")[2]
check_names(DEMO, {"made_up": 3})
arguments = ["predict", "--config", "configs/demo/self.yaml", "--model.made_up", "4", "--print_config"]
assert cli.main(arguments) == 0
"""


def test_to_add_an_option_is_to_touch_one_file(tmp_path):
    copy_tree(tmp_path, left_out=("tests", "bench"))
    file = tmp_path / "flexselect" / "options.py"
    source = file.read_text().replace("    scoring_only: bool =", "    made_up: int = 2\n    scoring_only: bool =", 1)
    output = "        made_up: nothing.\n        scoring_only: load"
    file.write_text(source.replace("        scoring_only: load", output, 1))
    status, said = run_copy(MADE_UP, tmp_path)
    assert status == 0, said[-3000:]
    assert "made_up: 4" in said


def test_help_says_what_each_option_means():
    text = inspect.getdoc(FlexSelect.from_pretrained)
    for option in option_names(Options):
        assert re.search(rf"^ *{option}: ..........", text, re.MULTILINE), option
    assert text.index("Options:") > text.index("Raises:")
