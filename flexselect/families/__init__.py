"""The families that `FlexSelect.from_pretrained` knows. A YAML may name any other class."""

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

from flexselect.families.base import VideoFamily, VideoLM
from flexselect.families.glm4v import Glm4v
from flexselect.families.internvl import InternVL
from flexselect.families.llava_video import LlavaVideo
from flexselect.families.minicpm_v import MiniCPMV
from flexselect.families.qwen2_5_vl import Qwen25VL
from flexselect.families.qwen3_5 import Qwen35
from flexselect.families.qwen3_vl import Qwen3VL
from flexselect.loading.checkpoint_files import kind_of, read_config
from flexselect.loading.compilation import compile_layers
from flexselect.loading.weights import LoadOptions
from flexselect.options import LoadingOptions
from flexselect.validation import check_known

FAMILIES: tuple[type[VideoFamily], ...] = (Qwen25VL, LlavaVideo, InternVL, Qwen3VL, Qwen35, Glm4v, MiniCPMV)


def family_of(path: str, **numbers: object) -> VideoFamily:
    """Find the family of a checkpoint from its config.json, and build it.

    Args:
        path: local folder or hub id.
        numbers: numbers of the family, such as `fps` and `max_frames`.

    Raises:
        ValueError: if no family claims the checkpoint, or the family has no such number.
    """
    family = family_class(path)
    check_known(numbers, numbers_of(family), f"a {family.__name__} model")
    return family(path, **numbers)  # type: ignore[call-arg]


def open_family(
    model: str | VideoFamily, numbers: Mapping[str, Any], options: Sequence[str], caller: str
) -> VideoFamily:
    """Return a family object as it is, or find the family of a checkpoint.

    Args:
        model: local folder or hub id of a checkpoint; or a family object.
        numbers: numbers of the family; none for a family object, which has its own.
        options: other options of the caller, for the message about an unknown number.
        caller: who takes the numbers, for the message.

    Raises:
        ValueError: if the family has no such number, or no family claims the checkpoint.
    """
    if not isinstance(model, VideoFamily):
        check_known(numbers, [*options, *numbers_of(family_class(model))], caller)
        return family_of(model, **numbers)
    if numbers:
        raise ValueError(f"{', '.join(numbers)}: set these numbers in the constructor of the family")
    return model


def family_class(path: str) -> type[VideoFamily]:
    """Find the family class that claims a checkpoint.

    Raises:
        ValueError: naming the architecture, if no family claims it.
    """
    config = read_config(path)
    for family in FAMILIES:
        if family.claims(config):
            return family
    known = ", ".join(family.__name__ for family in FAMILIES)
    raise ValueError(
        f"no family knows the checkpoint at {path}: {kind_of(config)}. "
        f"Known families: {known}; docs/families.md lists their models"
    )


def load_lm(family: VideoFamily, options: LoadingOptions, num_layers: int | None = None) -> VideoLM:
    """Load a VideoLLM, or its first decoder layers, and set its speed options."""
    lm = family.load(LoadOptions.of(options, num_layers))
    lm.cache_implementation, lm.kernels = options.cache_implementation, options.attention_kernels
    if options.compile:
        compile_layers(lm.decoder)
    return lm


def numbers_of(family: type[VideoFamily]) -> list[str]:
    """List the arguments of a family's constructor besides the path."""
    return [name for name in signature(family).parameters if name != "path"]
