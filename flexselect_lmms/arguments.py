"""Convert `--model_args` of lmms-eval to options of the pipeline; names of the released scripts work too."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from flexselect.families import family_class, numbers_of
from flexselect.loading.fingerprint import weights_hash
from flexselect.options import Options, option_names
from flexselect.scoring.factory import is_trained
from flexselect.validation import check_known

log = logging.getLogger(__name__)

ALIASES = {
    "token_selector_path": "selector",
    "token_selector_layer": "reference_layer",
    "drop_func_name": "reduction",
    "tkn_budget": "budget",
    "max_frames_num": "max_frames",
    "max_num_frames": "max_frames",
    "num_segments": "max_frames",
}
READ_FROM_THE_CHECKPOINT = ("conv_template", "mm_spatial_pool_mode", "modality", "token_selector_type", "model_name")
NONE_WORDS = ("", "none", "null")


def options(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return options of `FlexSelect.from_pretrained`; names of the released scripts are translated.

    Raises:
        ValueError: if an option is given twice, under two names.
    """
    values: dict[str, Any] = {}
    for name, value in arguments.items():
        if name in READ_FROM_THE_CHECKPOINT:
            log.warning("%s is read from the checkpoint: %s=%s has no effect", name, name, value)
            continue
        if name == "use_flash_attention_2":
            name, value = "attn_implementation", "flash_attention_2" if value else "sdpa"
        option = ALIASES.get(name, name)
        if option in values:
            raise ValueError(f"{option} is given twice in model_args, once as {name}")
        values[option] = None if str(value).lower() in NONE_WORDS else value
    if not values.pop("use_token_selector", True):
        values["selector"] = None  # dense, as in the released scripts
    return values


def check_names(path: str, chosen: dict[str, Any]) -> None:
    """Refuse unknown options.

    Raises:
        ValueError: naming the option, and all that exist.
    """
    taken = {*option_names(Options), *numbers_of(family_class(path))} - {"device"}
    check_known(chosen, sorted(taken), "model_args")


def identity(path: str, selector: str | None) -> str:
    """Hash all weights, because the response cache of lmms-eval compares folders by name only."""
    hashes = [weights_hash(path), *([weights_hash(selector)] if is_trained(selector) else ())]
    return "-".join(("sha", *hashes))  # the prefix keeps lmms-eval from reading it as a number


def check_identity(expected: str | None, path: str, selector: str | None) -> None:
    """Compare the hash in model_args with the hash of the weights.

    Raises:
        ValueError: naming both, if they differ.
    """
    actual = identity(path, selector)
    if expected is None:
        log.warning(
            "add weights=%s to --model_args; without it, --use_cache does not notice other weights in the same folder",
            actual,
        )
    elif expected != actual:
        raise ValueError(f"model_args say weights={expected}, but the weights are {actual}: the files have changed")


def answers_file(path: str, rank: int) -> Path:
    """Return the file for the answers of a process; its folder is created.

    Raises:
        ValueError: if the path is a folder.
    """
    file = Path(path)
    if file.is_dir():
        raise ValueError(f"model_args say answers={path}, which is a folder: name a file in it")
    file.parent.mkdir(parents=True, exist_ok=True)
    return file.with_stem(f"{file.stem}-{rank}") if rank else file
