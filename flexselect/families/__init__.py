"""The families that `FlexSelect.from_pretrained` knows; a YAML may name any other class."""

from flexselect.families.base import VideoFamily
from flexselect.families.internvl import InternVL
from flexselect.families.llava_video import LlavaVideo
from flexselect.families.qwen2_5_vl import Qwen25VL
from flexselect.families.qwen3_vl import Qwen3VL
from flexselect.loading.weights import read_config

FAMILIES: tuple[type[VideoFamily], ...] = (Qwen25VL, LlavaVideo, InternVL, Qwen3VL)


def family_of(path: str, **options: object) -> VideoFamily:
    """Find the family of a checkpoint from its config.json.

    Raises:
        ValueError: naming what was found, if no family claims it.
    """
    config = read_config(path)
    for family in FAMILIES:
        if family.claims(config):
            return family(path, **options)  # type: ignore[call-arg]
    known = ", ".join(family.__name__ for family in FAMILIES)
    raise ValueError(
        f"no family knows the checkpoint at {path}: model_type {config.get('model_type')!r}, "
        f"architectures {config.get('architectures')}. Known families: {known}"
    )
