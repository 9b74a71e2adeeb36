"""Mistakes that are seen in the words of a command line, before PyTorch is loaded.

What is not sure to be a mistake is left to the parser: options of other people's classes, values of other types.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from flexselect.commands.help.source import (
    ROOMS,
    alternatives,
    function_options,
    literal_choices,
    options_of_part,
    read_options,
)
from flexselect.commands.verbs import SHARED, VERBS
from flexselect.nearest import did_you_mean
from flexselect.shipped import config_names
from flexselect.structures.readers import unknown_reader

OUR_PACKAGES = ("flexselect.", "lightning_modules.", "datamodules.", "lightning.")
OF_ANY_RUN = ("--seed_everything", "--print_config", "--ckpt_path", "--return_predictions", "--weights_only")
SURE = 0.8  # similarity from which an unknown option of a run is a mistyped one
INPUTS = (  # options that name what must be there
    ("--ckpt_path", "checkpoint", ("export",)),
    ("--input", "folder", ("convert",)),
    ("--data.annotations", "annotation file", ()),
    ("--data.val_annotations", "annotation file", ()),
    ("--data.video_root", "folder", ()),
    ("--data.root", "folder", ()),
    ("--videos", "folder", ("serve",)),
)
TABLES = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".yaml", ".yml")
KINDS = {  # types whose values are told apart, and how a message calls them
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
}
BOOLEANS = ("true", "false", "yes", "no", "on", "off")
NOTHING = ("null", "none", "~", "")


def find_mistake(verb: str, words: Sequence[str]) -> str | None:
    """Say what is wrong with the words after a verb; None: nothing that is seen at once."""
    pairs = list(_options(words))
    configs = [value for name, value in pairs if name == "--config" and value is not None]
    for config in configs:
        if not Path(config).exists():
            near = did_you_mean(config, [*config_names(), *map(str, Path("configs").rglob("*.yaml"))], cutoff=0.5)
            return f"{config}: no such config{near}"
    if VERBS[verb].function:
        mistake = _mistake_of_function(verb, words, pairs)
    elif VERBS[verb].classes and not _names_other_classes(configs, pairs):
        mistake = _mistake_of_run(verb, pairs, has_config=bool(configs))
    else:
        mistake = None
    return mistake or _missing_input(verb, pairs)


def _options(words: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yield each option with the word that follows it, if that is a value; words before them are left out."""
    for word, following in zip(words, [*words[1:], "--"]):
        name, equals, value = word.partition("=")
        if name.startswith("--") and len(name) > 2:
            yield name, value if equals else None if following.startswith("--") else following


# -- verbs that run a Trainer


def _mistake_of_run(verb: str, pairs: Sequence[tuple[str, str | None]], has_config: bool) -> str | None:
    """Find a mistyped option or a wrong value of a verb that runs a Trainer."""
    for name, value in pairs:
        mistake = _mistake_of_option(name, value)
        if mistake:
            return mistake
    named = {name.partition(".")[0] for name, _ in pairs}
    if verb != "ask" and not has_config and not {"--model", "--family", "--data"} & named:
        return "a model is missing: give --config CONFIG, for example --config qwen2_5_vl_7b"
    return None


def _mistake_of_option(name: str, value: str | None) -> str | None:
    """Find what is wrong with one option of a model, a data module, a family, the Trainer, or of the whole run."""
    part, dot, key = name.rstrip("+").partition(".")
    if not dot:
        choices = SHARED.get(name, ("", ""))[0].strip("{}").split(",")
        if len(choices) > 1 and value is not None and value not in choices:
            return f"{name} cannot be {value}: it is one of {', '.join(choices)}{did_you_mean(value, choices)}"
        known = {*SHARED, *OF_ANY_RUN, *(f"--{room}" for room in ROOMS)}
        near = "" if name in known else did_you_mean(name, known, cutoff=SURE)
        return f"there is no {name}{near}" if near else None
    key, nested, _ = key.partition(".")
    if part.removeprefix("--") not in ROOMS or key in ("class_path", "init_args", "help", "dict_kwargs", ""):
        return None
    kinds = options_of_part(part.removeprefix("--"))
    if key not in kinds:
        near = did_you_mean(key, kinds, f"{part}.")
        return f"there is no {part}.{key}{near}" if near else None
    if value is not None and f"{part}.{key}" == "--data.reader":
        return unknown_reader(value)
    return None if nested or value is None else _wrong_value(f"{part}.{key}", value, kinds[key])


def _wrong_value(name: str, value: str, kinds: set[str]) -> str | None:
    """Say that a value is not of an option's type, if it has one of few plain types wherever it is defined."""
    allowed = {kind.strip() for types in kinds for kind in alternatives(types)}
    choices: list[str] = []
    for kind in allowed - {"None", *KINDS}:
        if not literal_choices(kind):
            return None  # a text, or something that only the parser knows
        choices += literal_choices(kind)
    if value in choices or value.lower() in NOTHING or not re.match(r"[\w.+-]", value):
        return None
    if any(_is_of(kind, value) for kind in allowed & {*KINDS}):
        return None
    expected = [
        words for kind, words in KINDS.items() if kind in allowed and not (kind == "int" and "float" in allowed)
    ]
    expected += [f"one of {', '.join(choices)}"] if choices else []
    near = did_you_mean(value, choices)
    return f"{name} cannot be {value}: it is {' or '.join(expected)}{near}"


def _is_of(kind: str, value: str) -> bool:
    """Return whether a word is a value of a type, as YAML reads it."""
    if kind == "bool":
        return value.lower() in BOOLEANS
    try:
        number = float(re.sub(r"^([+-]?)\.(inf|nan)$", r"\1\2", value.lower()))
    except ValueError:
        return re.fullmatch(r"0[xo][\da-f_]+", value.lower()) is not None
    return kind == "float" or number.is_integer()


def _names_other_classes(configs: Sequence[str], pairs: Sequence[tuple[str, str | None]]) -> bool:
    """Return whether the configs or the options name a class of another package, whose options are not known here."""
    texts = [Path(config).read_text(encoding="utf-8", errors="replace") for config in configs if Path(config).is_file()]
    named = [name for text in texts for name in re.findall(r"class_path: *([\w.]+)", text)]
    named += [value for name, value in pairs if value and name in ("--family", "--model", "--data")]
    return not all(name.startswith(OUR_PACKAGES) for name in named)


# -- verbs that are functions


def _mistake_of_function(verb: str, words: Sequence[str], pairs: Sequence[tuple[str, str | None]]) -> str | None:
    """Find what is missing or wrong in the words of a verb without a Trainer."""
    about = VERBS[verb]
    options = function_options(about.function)
    if about.takes:
        options = {**read_options(*about.takes.split(":")), **options}
    required = [name for name, (_, default, _) in options.items() if not default]
    if about.words:
        taken = {value for _, value in pairs}
        plain = [word for word in words if not word.startswith("-") and word not in taken]
        if len(plain) < len(required):
            return f"missing: {' and '.join(list(about.words)[len(plain) :])}, for example {about.example}"
        for name, word in zip(required, plain):
            mistake = _wrong_value(name, word, {options[name][0]})
            if mistake:
                return mistake
        return next(
            (f"{word}: no such folder" for word in plain if verb == "compare" and not Path(word).is_dir()), None
        )
    for name, value in pairs:
        key = name.removeprefix("--")
        mistake = None if value is None or key not in options else _wrong_value(name, value, {options[key][0]})
        near = did_you_mean(name, [f"--{option}" for option in options], cutoff=SURE)
        if key.partition(".")[0] not in (*options, "config", "options", "print_config") and near:
            mistake = f"there is no {name}{near}"
        if mistake:
            return mistake
    lacking = [f"--{name}" for name in required if f"--{name}" not in dict(pairs)]
    if lacking and "--config" not in dict(pairs):
        return f"missing: {' and '.join(lacking)}, for example {about.example}"
    return None


# -- files


def _missing_input(verb: str, pairs: Sequence[tuple[str, str | None]]) -> str | None:
    """Say which file or folder that an option names is not there, if it will be read."""
    values = dict(pairs)
    if "--print_config" in values or "--data.download" in values:
        return None
    for name, what, verbs in INPUTS:
        value = values.get(name)
        if not value or (verbs and verb not in verbs) or value.lower() in NOTHING:
            continue
        if what == "annotation file" and not value.lower().endswith(TABLES):
            continue  # a data set on the hub
        if not Path(value).expanduser().exists():
            parent = Path(value).expanduser().parent
            near = did_you_mean(value, map(str, parent.glob("*"))) if parent.is_dir() else ""
            return f"{name} {value}: no such {what}{near}"
    return None
