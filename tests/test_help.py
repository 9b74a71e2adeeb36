"""What the command line says before a model is loaded: help, the version, mistakes; at once, from the source."""

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import cli
from flexselect.commands.help import mistakes, source, texts
from flexselect.commands.help.at_once import answer_at_once
from flexselect.commands.verbs import SHARED, SHORT, VERBS
from flexselect.options import AskingOptions, option_names
from flexselect.validation import LOOKS

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
    options = source.read_options("flexselect.options", "AskingOptions")
    assert list(options) == option_names(AskingOptions)
    assert options["max_new_tokens"] == ("int", "64", "the maximum length of an answer, in tokens.")
    assert options["keep"][1] == "'auto'" and options["budget"][0] == "int | None"
    shown = texts.describe("predict")
    assert "--model.keep {auto,nothing,features,scores_kv}" in shown and "(default: 64)" in " ".join(shown.split())


def test_every_option_that_help_names_is_one():
    for name, verb in VERBS.items():
        for option in verb.options:
            long = option if option in SHARED or name != "ask" else SHORT[option]
            part, dot, key = long.removeprefix("--").partition(".")
            if long in SHARED:
                continue
            owner = verb.classes.get(part, "")
            options = source.read_options(*owner.split(":")) if dot else source.function_options(verb.function)
            assert (key if dot else part) in options, (name, option)


def test_examples_name_configs_that_there_are():
    pairs = [pair for verb in VERBS.values() for pair in pairwise(verb.example.split())]
    names = [name for before, name in pairs if before in ("--config", "--model")]
    assert len(names) > 6 and all((ROOT / "configs" / f"{name}.yaml").is_file() for name in names)


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["predict", "--help"],
        ["fit", "--help-all"],
        ["predikt"],
        ["predict", "--config", "none.yaml"],
        ["predict", "--config", "configs/demo/self.yaml", "--model.budget", "many"],
        ["fit", "--config", "configs/demo/self.yaml", "--trainer.max_epoch", "3"],
        ["validate", "--config", "configs/demo/self.yaml", "--data.annotations", "none.jsonl"],
        ["compare", "none", "other"],
        ["ask", "none.mp4", "What is shown?"],
        ["serve", "--port", "x", "--path", "y"],
    ],
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


@pytest.mark.parametrize(
    ("words", "right"),
    [
        ("predict --config configs/demo/self.yaml --model.budget abc", "--model.budget cannot be abc: it is a whole n"),
        (
            "predict --config configs/demo/self.yaml --model.keep=score",
            "it is one of auto, nothing, features, scores_kv",
        ),
        ("predict --config configs/demo/self.yaml --model.verify maybe", "cannot be maybe: it is true or false"),
        ("predict --config configs/demo/self.yaml --family.fps fast", "--family.fps cannot be fast: it is a number"),
        ("predict --config configs/demo/self.yaml --trainer.max_epoch 3", "did you mean --trainer.max_epochs?"),
        ("fit --config configs/demo/self.yaml --trainer.max_epochs ten", "cannot be ten: it is a whole number"),
        ("predict --config configs/demo/self.yaml --output_dri x", "did you mean --output_dir?"),
        (
            "validate --config configs/demo/self.yaml --data.annotations checkpoints/demo/selector/confg.json",
            "config.json?",
        ),
        ("predict", "give --config CONFIG"),
        ("serve --config configs/demo/serve.yaml --budgit 4", "did you mean --budget?"),
        ("serve --config configs/demo/serve.yaml --port http", "--port cannot be http: it is a whole number"),
        ("serve", "missing: --path, for example serve"),
        ("completion", "missing: SHELL"),
        ("completion fish", "cannot be fish: it is one of bash, zsh, tcsh"),
        ("compare README.md", "missing: OTHER"),
        ("export --ckpt_path none.ckpt --output x", "--ckpt_path none.ckpt: no such checkpoint"),
        ("export --ckpt_path README.md", "missing: --output"),
        ("convert --inptu a --output b", "did you mean --input?"),
    ],
)
def test_mistakes_that_are_seen_at_once(words, right):
    code, text = answer_at_once(words.split())
    assert code == 2 and right in text and len(text.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        "--model.budget null --model.budget 4_000 --model.budget 1e3 --model.budget=0x10 --family.fps .inf",
        "--family.fps 2 --model.verify True --trainer.precision 16-mixed --trainer.devices auto --trainer.devices 1",
        "--trainer.max_time 00:01:00:00 --trainer.strategy ddp --model.selector self --data.columns {a:b}",
        "--trainer.limit_val_batches 0.5 --trainer.max_epochs -1 --data.video a --data.question is-it-abc",
        "--model.reduction token_selection --model.device_map auto --model.keep_on disk --data.annotations null",
        "--data.annotations owner/set --data.annotations owner/set:test",
        "--data.video+ b --seed_everything 3 --ckpt_path x --trainer.logger.save_dir x --print_config",
    ],
)
def test_right_values_are_left_alone(words):
    assert answer_at_once(["predict", "--config", "configs/demo/self.yaml", *words.split()]) is None


@pytest.mark.parametrize("verb", VERBS)
def test_all_options_of_a_verb(verb, capsys):
    """Each with its type and meaning, those of the Trainer too, without the parser."""
    assert cli.main([verb, "--help-all"]) == 0
    shown = capsys.readouterr().out
    names = re.findall(r"^  (--[\w.]+)", shown, re.M)
    assert len(names) == len(set(names)) and set(VERBS[verb].options) <= set(names)
    for part, owner in VERBS[verb].classes.items():
        options = {f"--{part}.{name}" for name in source.read_options(*owner.split(":")) if name not in texts.SET_BY_US}
        assert options <= {SHORT.get(name, name) if verb == "ask" else name for name in names}, verb
    assert ("--trainer.precision" in names) == bool(VERBS[verb].classes)


def test_an_experiment_with_a_mistyped_key(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("configs: [demo/self]\nrusn: {one: {}}\nruns: {}")
    assert cli.main(["experiment", "--config", str(tmp_path / "a.yaml"), "--output_dir", str(tmp_path)]) == 2
    assert "has no option rusn; did you mean runs?" in capsys.readouterr().err
    (tmp_path / "b.yaml").write_text("configs: [demo/self]\nruns: {one: {model.selectr: self}}")
    words = ["--config", str(tmp_path / "b.yaml"), "--output_dir", str(tmp_path), "--data.annotations", "README.md"]
    assert cli.main(["experiment", *words]) == 2
    assert "did you mean --model.selector?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "right"),
    [("--model.budgit", "--model.budget"), ("--data.vido=x", "--data.video"), ("--family.max_framez", "max_frames")],
)
def test_a_mistyped_option_is_named_without_the_parser(word, right):
    code, text = answer_at_once(["predict", "--config", "configs/demo/self.yaml", word, "4"])
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
        assert mistakes.find_mistake("predict", ["--config", "configs/demo/self.yaml", f"--{name}"]) is None, name


def test_options_of_other_packages_are_left_to_the_parser(tmp_path):
    (tmp_path / "a.yaml").write_text("family:\n  class_path: mine.Family\n")
    words = ["predict", "--config", str(tmp_path / "a.yaml"), "--family.max_framez", "4"]
    assert answer_at_once(words) is None
    assert answer_at_once(["predict", "--family", "mine.Family", "--family.max_framez", "4"]) is None


def test_ask_says_that_it_selects_without_being_told_to(capsys):
    """A run from YAML files keeps all tokens then; `ask` does not."""
    assert cli.main(["ask", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert '"self": training-free; "dense": all tokens;' in shown and "trained selector (default: self)" in shown
    assert "not given: all tokens" not in shown


def test_serve_hides_what_it_refuses(capsys):
    assert cli.main(["serve", "--help-all"]) == 0
    out = capsys.readouterr().out
    assert "--budget_split" in out and "--cost" not in out
    assert VERBS["serve"].refuses == ("cost", *LOOKS)
