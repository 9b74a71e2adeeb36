"""What the command line says before a model is loaded: help, the version, mistakes; at once, from the source."""

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import cli
from flexselect.commands import help as help_texts
from flexselect.commands.verbs import SHARED, SHORT, VERBS
from flexselect.options import AskingOptions, option_names

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "lightning", "transformers", "numpy", "yaml", "jsonargparse")


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_all_verbs_with_a_line_each(words, capsys):
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(f"  {name:12}{verb.line}" in lines for name, verb in VERBS.items())


def test_an_unknown_verb_gets_the_nearest_one_and_the_list(capsys):
    assert cli.main(["predikt"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: there is no verb predikt; did you mean predict?") and VERBS["serve"].line in error


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb(verb, capsys):
    """An example, then the options that people need, each with its meaning."""
    assert cli.main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert VERBS[verb].example in shown and len(shown.splitlines()) < 60
    for name in VERBS[verb].options:
        (line,) = [i for i, text in enumerate(shown.splitlines()) if text.split()[:1] == [name]]
        meaning = " ".join(shown.splitlines()[line : line + 2]).split(name)[1].strip()
        assert len(meaning) > 8, name


def test_types_and_defaults_are_those_of_the_source():
    options = help_texts.read_options("flexselect.options", "AskingOptions")
    assert list(options) == option_names(AskingOptions)
    assert options["max_new_tokens"] == ("int", "64", "the maximum length of an answer, in tokens.")
    assert options["keep"][1] == "'features'" and options["budget"][0] == "int | None"
    shown = help_texts.describe("predict")
    assert "--model.keep {nothing,features,scores_kv}" in shown and "(default: 64)" in " ".join(shown.split())


def test_every_option_that_help_names_is_one():
    for name, verb in VERBS.items():
        for option in verb.options:
            long = option if option in SHARED or name != "ask" else SHORT[option]
            part, dot, key = long.removeprefix("--").partition(".")
            known = long in SHARED or key in help_texts.read_options(*verb.classes[part].split(":"))
            assert (known and dot) or long in SHARED, (name, option)


def test_examples_name_configs_that_there_are():
    pairs = [pair for verb in VERBS.values() for pair in pairwise(verb.example.split())]
    names = [name for before, name in pairs if before in ("--config", "--model")]
    assert len(names) > 6 and all((ROOT / "configs" / f"{name}.yaml").is_file() for name in names)


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["predict", "--help"], ["predikt"], ["predict", "--config", "none.yaml"]]
)
def test_nothing_heavy_is_imported(words):
    program = f"import sys, cli; cli.main(sys.argv[1:]); print([n for n in {HEAVY!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n"), done.stdout


def test_importing_flexselect_imports_nothing_heavy():
    program = f"import sys, flexselect; print([n for n in {HEAVY!r} if n in sys.modules], flexselect.__version__)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[] ")


def test_public_names_are_there():
    import flexselect

    assert {name for name in flexselect.__all__ if vars(flexselect).get(name) or flexselect.__getattr__(name)} == set(
        flexselect.__all__
    )
    assert set(flexselect.__all__) <= set(dir(flexselect))
    with pytest.raises(AttributeError, match="no attribute 'FlexSelekt'"):
        _ = flexselect.FlexSelekt


def completed(script, *words):
    """What bash offers for the last word."""
    typed = " ".join(f"'{word}'" for word in ("flexselect", *words))
    commands = f"COMP_WORDS=({typed}); COMP_CWORD={len(words)}; _shtab_flexselect; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", f"{script}\n{commands}"], capture_output=True, text=True)
    return set(done.stdout.split())


def test_a_shell_completes_verbs_options_and_configs(capsys):
    assert cli.main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert completed(script, "pre") == {"predict"} and set(VERBS) <= completed(script, "")
    assert {"--model.selector", "--quiet"} <= completed(script, "predict", "--")
    assert completed(script, "predict", "--model.keep", "s") == {"scores_kv"}
    assert "demo/self" in completed(script, "ask", "--model", "demo/")
    for shell in ("zsh", "tcsh"):
        assert cli.main(["completion", shell]) == 0 and "experiment" in capsys.readouterr().out
    assert cli.main(["completion", "fish"]) == 2


def test_an_experiment_with_a_mistyped_key(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("configs: [demo/self]\nrusn: {one: {}}\nruns: {}")
    assert cli.main(["experiment", "--config", str(tmp_path / "a.yaml"), "--output_dir", str(tmp_path)]) == 2
    assert "has no option rusn; did you mean runs?" in capsys.readouterr().err
    (tmp_path / "b.yaml").write_text("configs: [demo/self]\nruns: {one: {model.selectr: self}}")
    words = ["--config", str(tmp_path / "b.yaml"), "--output_dir", str(tmp_path), "--data.annotations", "x.jsonl"]
    assert cli.main(["experiment", *words]) == 2
    assert "did you mean --model.selector?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "right"),
    [("--model.budgit", "--model.budget"), ("--data.vido=x", "--data.video"), ("--family.max_framez", "max_frames")],
)
def test_a_mistyped_option_is_named_without_the_parser(word, right):
    code, text = help_texts.answer_at_once(["predict", "--config", "configs/demo/self.yaml", word, "4"])
    assert code == 2 and right in text and len(text.splitlines()) == 1


def test_every_option_of_every_class_is_known():
    """Those that docs/config_keys.md lists are never called mistyped; nor is one of somebody else's class."""
    listed = re.findall(r"^\| `((?:model|data|family)\.\w+)`", (ROOT / "docs" / "config_keys.md").read_text(), re.M)
    assert len(listed) > 80
    for name in [
        *listed,
        "data.columns.question",
        "model.init_args.x",
        "model.class_path",
        "data.video+",
        "model.zzzz",
    ]:
        assert help_texts._mistyped(f"--{name}") is None, name


def test_options_of_other_packages_are_left_to_the_parser(tmp_path):
    (tmp_path / "a.yaml").write_text("family:\n  class_path: mine.Family\n")
    words = ["predict", "--config", str(tmp_path / "a.yaml"), "--family.max_framez", "4"]
    assert help_texts.answer_at_once(words) is None
    assert help_texts.answer_at_once(["predict", "--family", "mine.Family", "--family.max_framez", "4"]) is None
