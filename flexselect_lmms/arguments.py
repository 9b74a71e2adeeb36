"""`--model_args` of lmms-eval as the pipeline's options, the released scripts' names among them."""

from __future__ import annotations

import logging
from typing import Any

from flexselect.families import family_class, numbers_of
from flexselect.loading.fingerprint import weights_hash
from flexselect.options import Options, names
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
NOTHING = ("", "none", "null")


def options(given: dict[str, Any]) -> dict[str, Any]:
    """Options of `FlexSelect.from_pretrained`, whatever names they came under.

    Raises:
        ValueError: for one option given twice, under two names.
    """
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name in READ_FROM_THE_CHECKPOINT:
            log.warning("%s is read from the checkpoint: %s=%s has no effect", name, name, value)
            continue
        if name == "use_flash_attention_2":
            name, value = "attn_implementation", "flash_attention_2" if value else "sdpa"
        own = ALIASES.get(name, name)
        if own in found:
            raise ValueError(f"{own} is given twice in model_args, once as {name}")
        found[own] = None if str(value).lower() in NOTHING else value
    if not found.pop("use_token_selector", True):
        found["selector"] = None  # dense, as released
    return found


def check_names(path: str, chosen: dict[str, Any]) -> None:
    """Refuse a name that nothing takes.

    Raises:
        ValueError: naming it, and those that there are.
    """
    taken = {*names(Options), *numbers_of(family_class(path))} - {"device"}
    check_known(chosen, sorted(taken), "model_args")


def identity(path: str, selector: str | None) -> str:
    """Hash of all weights: what `--use_cache` of lmms-eval must see, which else knows a folder by its name only."""
    hashes = [weights_hash(path), *([weights_hash(selector)] if is_trained(selector) else ())]
    return "-".join(("sha", *hashes))  # a word: lmms-eval makes numbers of what looks like one


def check_identity(expected: str | None, path: str, selector: str | None) -> None:
    """Compare the hash that was given in model_args with the weights that are there.

    Raises:
        ValueError: naming both, if they differ.
    """
    found = identity(path, selector)
    if expected is None:
        log.warning("add weights=%s to --model_args: only so does --use_cache tell other weights in one folder", found)
    elif expected != found:
        raise ValueError(f"model_args say weights={expected}, but these are {found}: they were changed meanwhile")
