"""Every option once: its name, type, choices, default, meaning, check, and whether it changes an answer.

Constructors and verbs take `**options` and build one of these classes of them, so that to add an option is to add a
field here and to use it. A Literal is the list of an option's choices; what else is refused stands in `__post_init__`.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal, TypedDict, get_args, get_origin, get_type_hints

import torch

from flexselect.attention import resolve_reduction
from flexselect.validation import check_cache, check_choice, check_place


def placement(default: Any) -> Any:
    """A field that decides where and how fast something runs, and changes no answer."""
    return field(default=default, metadata={"changes_answer": False})


@dataclass(frozen=True, kw_only=True)
class LoadingOptions:
    """How the weights of a VideoLLM are loaded.

    Args:
        dtype: of the weights.
        device: None: the first GPU if there is one, else the CPU.
        device_map: "auto" spreads a large model over all GPUs, then over memory and disk.
        offload_folder: for what goes to disk.
        attn_implementation: for answering: "sdpa", "flash_attention_2", ...; scoring always uses SDPA.
        quantization: weights in 4 or 8 bits, if bitsandbytes is installed.
        compile: decoder layers by torch.compile: minutes at the first questions, faster afterwards.
        cache_implementation: for generation: None, as the model has it, or "static" (see transformers).

    Raises:
        ValueError: naming the option, what it was and what it may be.
    """

    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    device: str | None = placement(None)
    device_map: str | None = placement(None)
    offload_folder: str | None = placement(None)
    attn_implementation: str = "sdpa"
    quantization: Literal["4bit", "8bit"] | None = None
    compile: bool = placement(False)
    cache_implementation: Literal["static"] | None = placement(None)

    def __post_init__(self) -> None:
        for option in fields(self):
            choices = choices_of(type(self), option)
            value = self.__dict__[option.name]
            if choices and value not in choices:
                check_choice(option.name, value, [choice for choice in choices if choice is not None])


@dataclass(frozen=True, kw_only=True)
class ScoringOptions(LoadingOptions):
    """How visual tokens are scored; see `LoadingOptions` for the rest.

    Args:
        reference_layer: the decoder layer whose attention is the score, 0-based; None: the family's for that size.
            Training-free, and for a selector's teacher.
        reduction: "max" or "mean" over heads and query rows; None: as the selector was trained, else "max".
        units_per_set: the most units scored together.
    """

    reference_layer: int | None = None
    reduction: str | None = None
    units_per_set: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("units_per_set", self.units_per_set, 1)
        resolve_reduction(self.reduction or "max")


@dataclass(frozen=True, kw_only=True)
class Options(ScoringOptions):
    """Which visual tokens a VideoLLM is shown; see `ScoringOptions` for the rest.

    Args:
        selector: None: all tokens (dense); "self": training-free; "uniform", "random": controls; else the folder or
            hub id of a trained selector.
        budget: visual tokens kept, K; None: the family's default.
        budget_split: "exact": the budgets of the frame sets sum to min(K, V); "released": int(K / S) each, as the
            released code.
        positions: of kept tokens: "original" or "compact"; None: the family's.
        selector_alignment: "exact" or "released", see `LiteScorer.shift`; None: what the selector says.
        scoring_only: load the decoder up to the reference layer only: `select` works, `ask` does not.
    """

    selector: str | None = None
    budget: int | None = None
    budget_split: Literal["exact", "released"] = "exact"
    positions: Literal["original", "compact"] | None = None
    selector_alignment: Literal["released", "exact"] | None = None
    scoring_only: bool = placement(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget is not None:
            check_at_least("budget", self.budget, 1, " visual token")
        if self.scoring_only and self.selector != "self":
            raise ValueError(f'scoring_only needs selector="self", got {self.selector!r}')


@dataclass(frozen=True, kw_only=True)
class AskingOptions(Options):
    """How a run asks its questions; see `Options` for the rest.

    Args:
        max_new_tokens: the most tokens of an answer.
        keep: "scores_kv" keeps keys and values of a video from question to question, see `VideoSession.keeping`.
        keep_on: where: a device, or "disk".
        feature_cache: a folder where vision features are kept, for later runs over the same videos; None: none are.
        feature_cache_gb: the most that folder takes; what was not used for longest goes first.
    """

    max_new_tokens: int = 64
    keep: Literal["nothing", "features", "scores_kv"] = placement("features")
    keep_on: str | None = placement(None)
    feature_cache: str | None = placement(None)
    feature_cache_gb: float = placement(100.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("max_new_tokens", self.max_new_tokens, 1)
        check_place(self.keep_on)
        if self.feature_cache is not None:
            check_cache(self.feature_cache, self.feature_cache_gb)


class OptionNames(TypedDict, total=False):
    """`Options` by name, and the numbers of the known families, for editors; a test holds it equal to both."""

    dtype: str
    device: str | torch.device | None
    device_map: str | None
    offload_folder: str | None
    attn_implementation: str
    quantization: str | None
    compile: bool
    cache_implementation: str | None
    reference_layer: int | None
    reduction: str | None
    units_per_set: int
    budget: int | None
    budget_split: str
    positions: str | None
    selector_alignment: str | None
    scoring_only: bool
    fps: float | None
    max_frames: int | None
    min_pixels: int | None
    max_pixels: int | None
    newlines: str | None
    time_step: str


def names(options: type[LoadingOptions]) -> list[str]:
    """The names of all options of a class."""
    return [option.name for option in fields(options)]


def deciding(options: LoadingOptions) -> dict[str, Any]:
    """Those options that change an answer, by name, for the record of a run."""
    chosen = (option for option in fields(options) if option.metadata.get("changes_answer", True))
    return {option.name: options.__dict__[option.name] for option in chosen}


def choices_of(options: type[LoadingOptions], option: Field) -> list[Any]:
    """The values that an option may have, None among them where it may be that; empty where its type has no list."""
    hint = get_type_hints(options)[option.name]
    parts = [hint] if get_origin(hint) is Literal else list(get_args(hint))
    listed = [value for part in parts if get_origin(part) is Literal for value in get_args(part)]
    return [*listed, *([None] if listed and type(None) in parts else [])]


def check_at_least(name: str, value: Any, least: int, unit: str = "") -> None:
    """Refuse a number that is below, or none.

    Raises:
        ValueError: naming it.
    """
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be at least {least}{unit}, got {value!r}")
