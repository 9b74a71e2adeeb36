"""The verb `ask`: one video, one question or more, without a YAML file. Its words become those of `predict`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flexselect.commands.help.source import options_of_part
from flexselect.commands.verbs import SHORT
from flexselect.nearest import did_you_mean
from flexselect.shipped import config_file, config_names

DEFAULT_MODEL = "qwen2_5_vl_7b"
FLAGS = ("--report",)  # options that need no value
MODES = {"dense": "null"}  # values of --selector that have another name in a YAML


def predict_words(words: Sequence[str]) -> list[str]:
    """Translate the words after `ask` to those after `predict`.

    Args:
        words: a video, its questions, short options such as `--model`, and options of `predict` with their values.

    Raises:
        ValueError: if the video, a question or a value is missing, or an option or a model is unknown.
        FileNotFoundError: if there is no such video.
    """
    texts, options, rest = list[str](), dict[str, str](), list(words)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if not name.startswith("--"):
            texts.append(f"{name}{equals}{value}")
            continue
        if name not in SHORT and "." not in name:
            raise ValueError(f"ask has no option {name}{_whole_name(name) or did_you_mean(name, SHORT)}")
        if name in FLAGS and not equals:
            options[name] = "true"
            continue
        if not equals and (not rest or rest[0].startswith("--")):
            raise ValueError(f"{name} has no value")
        options[name] = value if equals else rest.pop(0)
    files = next((name for name in ("--report", "--moments") if name in options), None)
    if files and "--output_dir" not in options:
        raise ValueError(f"{files} writes a file, and ask keeps none: give --output_dir DIR")
    if len(texts) < 2:
        lack = "a question" if texts else "a video and a question"
        raise ValueError(f'{lack} is missing: ask VIDEO "What is shown?"')
    video, *questions = texts
    if not video.strip():
        raise ValueError('the video is empty: ask VIDEO "What is shown?"')
    if not all(question.strip() for question in questions):
        raise ValueError('a question is empty: ask VIDEO "What is shown?"')
    if not Path(video).exists():
        swapped = '; the video comes first: ask VIDEO "What is shown?"' if Path(questions[0]).is_file() else ""
        near = did_you_mean(video, map(str, Path(video).parent.glob("*"))) if len(video) < 200 else ""
        raise FileNotFoundError(f"{video}: no such video{swapped or near}")
    if Path(video).is_dir():
        raise ValueError(f"{video} is a folder: ask is about one video; for all videos of a folder use predict")
    selector = options.get("--selector")
    if selector is not None:
        options["--selector"] = MODES.get(selector, selector)
    model = _model(options.pop("--model", DEFAULT_MODEL))
    more = [word for name, value in options.items() for word in _words(SHORT.get(name, name), value)]
    return [*model, "--data.video", video, "--data.question", *questions, *more]


def _words(name: str, value: str) -> list[str]:
    """Write an option with its value; a flag stands alone, or is left out.

    Raises:
        ValueError: if a flag's value is neither true nor false.
    """
    if name not in FLAGS:
        return [name, value]
    if value not in ("true", "false"):
        raise ValueError(f"{name} must be true or false, got {value}")
    return [name] if value == "true" else []


def _parts(file: str) -> set[str]:
    """Return the top-level names of a config.

    Raises:
        ValueError: if it is no YAML.
    """
    import yaml  # imported here because help must be quick

    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--model {file} is no config: {error}") from error
    return set(content if isinstance(content, dict) else ())


def _model(name: str) -> list[str]:
    """Return the options of a model: a config by its name or file, or a checkpoint by its folder or hub id.

    Raises:
        ValueError: if there is no such model, or no family knows the checkpoint.
        FileNotFoundError: if a hub id is not there.
    """
    file = config_file(name)
    if Path(file).is_file():
        if not {"family", "model", "data"} <= _parts(file):
            whole = ", ".join(config for config in config_names() if "/" not in config)
            raise ValueError(
                f"--model {name} is only a part of a config; give a checkpoint's folder, or one of {whole}"
            )
        return ["--config", file]
    near = did_you_mean(name, config_names(), cutoff=0.5 if "/" not in name else 0.8)
    if not Path(name).is_dir() and ("/" not in name or near):
        raise ValueError(f"--model {name}: no config has this name, and it is no folder and no hub id{near}")
    from flexselect.families import family_class  # imports PyTorch

    line = f"class_path: flexselect.families.{family_class(name).__name__}\n"
    families = [config_file(config) for config in config_names() if config.startswith("family/")]
    (family,) = [file for file in families if line in Path(file).read_text(encoding="utf-8")]
    configs = [family, config_file("model/self"), config_file("data/video_qa")]
    return [*(word for config in configs for word in ("--config", config)), "--family.path", name]


def _whole_name(name: str) -> str:
    """Return under which name `predict` and `ask` take an option; empty if they do not."""
    parts = ("family", "data", "model", "trainer")  # of the parts that list an option, the first one takes it
    whole = (f"--{part}.{name[2:]}" for part in parts if name[2:] in options_of_part(part))
    return next((f"; give {option}" for option in whole), "")
