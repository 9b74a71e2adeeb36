"""Makes the scorer that an option names."""

from __future__ import annotations

from pathlib import Path

import torch

from flexselect.attention import resolve_reduction
from flexselect.families.base import VideoFamily, VideoLM
from flexselect.loading.weights import read_config
from flexselect.scoring.controls import CONTROLS, is_trained
from flexselect.scoring.lite import LiteScorer
from flexselect.scoring.reference_layer import ReferenceLayerScorer
from flexselect.scoring.scorer import Scorer
from flexselect.selectors.lite_selector import LiteSelector
from flexselect.validation import check_choice


def check_options(
    family: VideoFamily,
    selector: str | None,
    reference_layer: int | None,
    budget: int | None,
    units_per_set: int,
    reduction: str | None,
    dtype: str,
) -> None:
    """Refuse what cannot work before minutes are spent on loading weights.

    Raises:
        ValueError: naming the option, what it was and what it may be.
        FileNotFoundError: no selector at the path that was given.
    """
    check_choice("dtype", dtype, ("bfloat16", "float16", "float32"))
    if selector is not None and "/" not in selector and not Path(selector).is_dir():
        check_choice("selector", selector, ("self", *CONTROLS, "the folder or hub id of one"))
    if is_trained(selector):
        read_config(selector)
    if reference_layer is not None and not 0 <= reference_layer < family.num_layers:
        most = family.num_layers - 1
        raise ValueError(f"reference_layer must be between 0 and {most} for this model, got {reference_layer}")
    if budget is not None and (not isinstance(budget, int) or budget < 1):
        raise ValueError(f"budget must be at least 1 visual token, got {budget!r}")
    if units_per_set < 1:
        raise ValueError(f"units_per_set must be at least 1, got {units_per_set}")
    resolve_reduction(reduction or "max")


def load_selector(selector: str | None, dtype: str, device: str | torch.device) -> LiteSelector | None:
    """The trained selector that an option names; None where it names a mode."""
    return LiteSelector.from_pretrained(selector, dtype=dtype, device=device) if is_trained(selector) else None


def make_scorer(
    selector: str | None,
    lm: VideoLM,
    lite: LiteSelector | None,
    layer: int,
    reduction: str | None,
    units_per_set: int,
    alignment: str | None,
) -> Scorer | None:
    """The scorer of a mode, or of a trained selector; None: dense.

    Args:
        selector: the option, see `FlexSelect.from_pretrained`.
        lm: the loaded VideoLLM.
        lite: what `load_selector` gave.
        layer: the reference layer, training-free only.
        reduction: None: as the selector was trained, else "max".
        units_per_set: the most units scored together.
        alignment: see `LiteScorer`.
    """
    if lite is not None:
        return LiteScorer(lm, lite, reduction, units_per_set, alignment)
    if selector == "self":
        return ReferenceLayerScorer(lm, layer, reduction or "max", units_per_set)
    return None if selector is None else CONTROLS[selector]()
