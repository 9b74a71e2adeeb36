"""Makes the scorer that an option names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeGuard

from flexselect.families.base import VideoFamily, VideoLM
from flexselect.loading.weights import LoadOptions, read_config
from flexselect.options import Options, ScoringOptions
from flexselect.scoring.controls import RandomScorer, UniformScorer
from flexselect.scoring.lite import LiteScorer
from flexselect.scoring.reference_layer import ReferenceLayerScorer
from flexselect.scoring.scorer import Scorer
from flexselect.selectors.lite_selector import LiteSelector
from flexselect.validation import check_choice


def training_free(lm: VideoLM, options: ScoringOptions) -> Scorer:
    """The VideoLLM's own attention."""
    return ReferenceLayerScorer(lm, reference_layer(lm.family, options), options.reduction or "max")


MODES: dict[str, Callable[[VideoLM, ScoringOptions], Scorer]] = {  # what `selector` may be beside a trained one
    "self": training_free,
    "uniform": lambda lm, options: UniformScorer(),
    "random": lambda lm, options: RandomScorer(),
}


def is_trained(selector: str | None) -> TypeGuard[str]:
    """Whether an option names a trained selector, by folder or hub id, and no mode."""
    return selector is not None and selector not in MODES


def reference_layer(family: VideoFamily, options: ScoringOptions) -> int:
    """The layer whose attention is the score, 0-based.

    Raises:
        ValueError: for a layer that the VideoLLM does not have.
    """
    layer = options.reference_layer
    if layer is not None and not 0 <= layer < family.num_layers:
        most = family.num_layers - 1
        raise ValueError(f"reference_layer must be between 0 and {most} for this model, got {layer}")
    return family.default_reference_layer if layer is None else layer


def check_options(family: VideoFamily, options: Options) -> None:
    """Refuse what does not fit the model, or is not there, before minutes are spent on loading weights.

    Raises:
        ValueError: naming the option, what it was and what it may be.
        FileNotFoundError: no selector at the path that was given.
    """
    selector = options.selector
    if selector is not None and "/" not in selector and not Path(selector).is_dir():
        check_choice("selector", selector, (*MODES, "the folder or hub id of one"))
    if is_trained(selector):
        read_config(selector)
    reference_layer(family, options)


def load_selector(options: Options) -> LiteSelector | None:
    """The trained selector that is named, on the device of the VideoLLM; None where a mode is named."""
    if not is_trained(options.selector):
        return None
    placed = LoadOptions.of(options)
    return LiteSelector.from_pretrained(options.selector, dtype=placed.dtype, device=placed.device)


def make_scorer(lm: VideoLM, options: Options, lite: LiteSelector | None = None) -> Scorer | None:
    """The scorer of a mode, or of a trained selector; None: dense.

    Args:
        lm: the loaded VideoLLM.
        options: which.
        lite: what `load_selector` gave.
    """
    if lite is not None:
        return LiteScorer(lm, lite, options.reduction, options.selector_alignment)
    return None if options.selector is None else MODES[options.selector](lm, options)
