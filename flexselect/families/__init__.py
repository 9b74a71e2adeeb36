"""The families that `FlexSelect.from_pretrained` knows. A YAML may name any other class."""

from inspect import signature

from flexselect.families.base import VideoFamily, VideoLM
from flexselect.families.internvl import InternVL
from flexselect.families.llava_video import LlavaVideo
from flexselect.families.qwen2_5_vl import Qwen25VL
from flexselect.families.qwen3_vl import Qwen3VL
from flexselect.loading.compilation import compile_layers
from flexselect.loading.weights import LoadOptions, read_config
from flexselect.options import LoadingOptions
from flexselect.validation import check_known

FAMILIES: tuple[type[VideoFamily], ...] = (Qwen25VL, LlavaVideo, InternVL, Qwen3VL)


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
        f"no family knows the checkpoint at {path}: model_type {config.get('model_type')!r}, "
        f"architectures {config.get('architectures')}. Known families: {known}"
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
