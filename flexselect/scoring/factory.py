"""Make the scorer that the options name."""

from __future__ import annotations

from pathlib import Path
from typing import TypeGuard

from flexselect.attention.layers import attention_layers, check_layer
from flexselect.families.base import VideoFamily, VideoLM
from flexselect.loading.checkpoint_files import read_config
from flexselect.loading.weights import LoadOptions
from flexselect.options import Options
from flexselect.scoring.controls import RandomScorer, UniformScorer
from flexselect.scoring.lite import LiteScorer
from flexselect.scoring.mass import by_mass
from flexselect.scoring.reference_layer import ReferenceLayerScorer, reference_layer
from flexselect.scoring.scorer import Scorer
from flexselect.selectors.lite_selector import LiteSelector, check_made_for, selector_at
from flexselect.validation import check_choice

MODES: dict[str, type[Scorer]] = {  # values of `selector` besides a trained selector
    "self": ReferenceLayerScorer,
    "uniform": UniformScorer,
    "random": RandomScorer,
}


def is_trained(selector: str | None) -> TypeGuard[str]:
    """Return whether the option names a trained selector (a folder or hub id), not a mode."""
    return selector is not None and selector not in MODES


def ranks_content(selector: str | None) -> bool:
    """Return whether tokens are kept for what they show: not if all are kept, and not by the controls."""
    return selector is not None and (is_trained(selector) or MODES[selector].ranks_content)


def check_options(family: VideoFamily, options: Options, evidence: str | None = None) -> None:
    """Check the options that depend on the model or on files, before weights are loaded.

    Args:
        family: the family of the model.
        options: the options of the run.
        evidence: an option of the run that needs scores that point to moments; None: none was given.

    Raises:
        ValueError: for a wrong value; the message names the option, the value and the choices.
        FileNotFoundError: no selector at the path.
    """
    selector = options.selector
    if selector is not None and "/" not in selector and not Path(selector).is_dir():
        check_choice("selector", selector, (*MODES, "the folder or hub id of a trained selector"))
    if is_trained(selector):
        read_config(selector)
    evidence = evidence or by_mass(options)
    if evidence and not ranks_content(selector):
        choices = "selector=self or a trained one"
        raise ValueError(f"{evidence} needs scores that point to moments: {choices}, got {selector!r}")
    if options.cost is not None and not ranks_content(selector):
        raise ValueError(f"cost needs scores to look again by: selector=self or a trained one, not {selector!r}")
    if options.cost is not None and options.selector_alignment == "released":
        raise ValueError("cost needs selector_alignment=exact: shifted scores belong to tokens that were never seen")
    reference_layer(family, options)
    if options.first_look_layer is not None:
        if selector != "self":
            raise ValueError(
                f"first_look_layer is for selector=self, got {selector!r}: leave it out (null in a YAML file)"
            )
        layers = attention_layers(family.model_config.get_text_config())
        check_layer(options.first_look_layer, layers, "first_look_layer")


def check_trained(selector: str) -> None:
    """Refuse a value that is not the folder or hub id of a trained selector.

    Raises:
        ValueError: for a mode.
        FileNotFoundError: no selector at the path.
    """
    if not is_trained(selector):
        raise ValueError(f"selector must be the folder or hub id of a trained selector, not the mode {selector!r}")
    read_config(selector)


def check_selector(family: VideoFamily, selector: str | None) -> None:
    """Refuse a trained selector of another model, before weights are loaded; a mode is for all.

    Raises:
        FileNotFoundError: no selector at the path.
        ValueError: if it is no selector, or not one for this model.
    """
    if is_trained(selector):
        check_made_for(selector, selector_at(selector)[1], family)


def load_selector(family: VideoFamily, options: Options) -> LiteSelector | None:
    """Load the trained selector onto the VideoLLM's device; None if the option names a mode."""
    if not is_trained(options.selector):
        return None
    check_selector(family, options.selector)
    loading = LoadOptions.of(options)
    return LiteSelector.from_pretrained(options.selector, dtype=loading.dtype, device=loading.device)


def make_scorer(lm: VideoLM, options: Options, lite: LiteSelector | None = None) -> Scorer | None:
    """Make the scorer of a mode or of a trained selector; None: dense.

    Args:
        lm: the loaded VideoLLM.
        options: the options of the run.
        lite: the selector from `load_selector`; None: the option names a mode.
    """
    if lite is not None:
        return LiteScorer(lm, lite, options.reduction, options.selector_alignment, options.tokens_per_batch)
    return None if options.selector is None else MODES[options.selector].make(lm, options)
