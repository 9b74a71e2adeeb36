"""All options: name, type, choices, default, meaning, check, and whether the option changes answers.

Constructors and verbs take `**options` and build one of these classes. To add an option, add a field here and use it.
A Literal lists the choices of an option; `__post_init__` has the other checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypedDict, TypeVar, get_args, get_origin, get_type_hints

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from flexselect.attention.probe import resolve_reduction
from flexselect.shipped import checkpoint_folder
from flexselect.validation import (
    check_at_least,
    check_budget_mass,
    check_cache,
    check_choice,
    check_device,
    check_engine,
    check_integer,
    check_known,
    check_looks,
    check_place,
    check_verify,
)

DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")

F = TypeVar("F", bound=Callable[..., Any])


def placement(default: Any) -> Any:
    """Define an option that changes where or how fast something runs, but no answer."""
    return field(default=default, metadata={"changes_answer": False})


def later(default: Any) -> Any:
    """Define an option that is younger than version 0.1: settings record it only if it differs from its default.

    So a run of an older version can be gone on with.
    """
    return field(default=default, metadata={"later": True})


@dataclass(frozen=True, kw_only=True)
class LoadingOptions:
    """How the weights of a VideoLLM are loaded.

    Args:
        dtype: data type of the weights.
        device: device of the model; None: the first GPU if there is one, else the CPU.
        device_map: "auto" spreads a large model over all GPUs, then over CPU memory and disk.
        offload_folder: folder for weights that are offloaded to disk.
        attn_implementation: attention for answering: "sdpa", "flash_attention_2", ...; scoring always uses SDPA.
        quantization: load weights in 4 or 8 bits; needs bitsandbytes.
        compile: compile the decoder's MLPs and norms with torch.compile, once for all layers and lengths.
        cache_implementation: cache for generation: "static" (see transformers; its size is rounded up to 1,024 tokens,
            so that questions of different lengths share it); None: the model's default.
        attention_kernels: which of PyTorch's attention kernels the tower and answering try first, "flash" or "cudnn";
            scoring always tries flash-attention first.

    Raises:
        ValueError: for a wrong value; the message names the option, the value and the choices.
    """

    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    device: str | None = placement(None)
    device_map: str | None = placement(None)
    offload_folder: str | None = placement(None)
    attn_implementation: str = "sdpa"
    quantization: Literal["4bit", "8bit"] | None = None
    compile: bool = placement(False)
    cache_implementation: Literal["static"] | None = placement(None)
    attention_kernels: Literal["flash", "cudnn"] = placement("flash")

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            choices, value = choices_of(hint), vars(self)[name]
            if choices and value not in choices:
                check_choice(name, value, [choice for choice in choices if choice is not None])
            if hint is bool and not isinstance(value, bool):
                raise ValueError(f"{name} must be true or false, got {value!r}")
        check_device("device", self.device)
        if isinstance(self.device_map, str) and self.device_map not in DEVICE_MAPS:
            check_device("device_map", self.device_map, DEVICE_MAPS)
        if "/" not in self.attn_implementation:  # else a kernel on the hub
            check_choice(
                "attn_implementation", self.attn_implementation, sorted(ALL_ATTENTION_FUNCTIONS.keys() | {"eager"})
            )


@dataclass(frozen=True, kw_only=True)
class ScoringOptions(LoadingOptions):
    """How visual tokens are scored; see `LoadingOptions` for the rest.

    Args:
        reference_layer: the decoder layer whose attention gives the scores, 0-based, for training-free selection and
            for a selector's teacher; None: the family's layer for this model size.
        reduction: "max" or "mean" over heads and query rows; None: as the selector was trained, else "max".
        units_per_set: the maximum number of units that are scored together.
        tokens_per_batch: the number of prompt tokens up to which frame sets are scored in one batch; changes memory,
            not scores. None: 8,192 on a CPU; on a GPU up to 32,768, as a quarter of its free memory allows. A frame set
            is never split.
    """

    reference_layer: int | None = None
    reduction: str | None = None
    units_per_set: int = 64
    tokens_per_batch: int | None = placement(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("units_per_set", self.units_per_set, 1)
        if self.tokens_per_batch is not None:
            check_at_least("tokens_per_batch", self.tokens_per_batch, 1)
        if self.reference_layer is not None:
            check_integer("reference_layer", self.reference_layer)
        resolve_reduction(self.reduction or "max")


@dataclass(frozen=True, kw_only=True)
class Options(ScoringOptions):
    """Which visual tokens a VideoLLM is shown; see `ScoringOptions` for the rest.

    Args:
        selector: None: all tokens (dense); "self": training-free; "uniform", "random": controls; else the folder or
            hub id of a trained selector.
        budget: K, the number of visual tokens to keep; None: the family's default.
        budget_split: "exact": the budgets of the frame sets sum to min(K, V); "released": int(K / S) per set, as in
            the released code; "mass": each set gets as many as it has among the K tokens that stand out most.
        budget_mass: keep the fewest tokens that carry this share (above 0, up to 1) of all by which scores stand out;
            at least K / 4, at most K. None: K tokens.
        positions: positions of kept tokens, "original" or "compact"; None: the family's default.
        selector_alignment: "exact"; or "released", which shifts scores as the released InternVL selectors need; None:
            the selector's setting.
        scoring_only: load the decoder up to the reference layer only: `select` works, `ask` does not.
        engine: what runs the LLM on the kept tokens: "transformers" or "vllm", see docs/serve.md.
        engine_url: address of a server that runs the engine; None: it runs on this machine.
        engine_options: arguments of vLLM, such as `tensor_parallel_size`.
        cost: None: one look at all frames in full. A number up to 2: look twice, first at few small frames of the whole
            video, then in full at what stands out there for the question. It is the share that both looks take of the
            frames of one look, see docs/look_twice.md; 2: all of them, twice.
        first_look_share: share of the cost for the first look.
        first_look_shrink: how much smaller the sides of frames are in the first look, if the tower takes several sizes.
        first_look_layer: reference layer of the first look, for training-free selection; None: that of the second.
        second_look_area: share of a frame's area that the second look takes, where scores of the first one are highest,
            if the tower takes several sizes; 1: whole frames.
        second_look_gb: how much of what was seen in full a session keeps for later questions.
    """

    selector: str | None = None
    budget: int | None = None
    budget_split: Literal["exact", "released", "mass"] = "exact"  # the rules of `set_budgets`
    budget_mass: float | None = later(None)
    positions: Literal["original", "compact"] | None = None
    selector_alignment: Literal["released", "exact"] | None = None
    scoring_only: bool = placement(False)
    engine: str = later("transformers")
    engine_url: str | None = placement(None)
    engine_options: dict[str, Any] | None = placement(None)  # noqa: RUF009 (the default is None)
    cost: float | None = later(None)
    first_look_share: float = later(0.5)
    first_look_shrink: float = later(2.0)
    first_look_layer: int | None = later(None)
    second_look_area: float = later(1.0)
    second_look_gb: float = placement(1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.selector is not None:
            object.__setattr__(self, "selector", checkpoint_folder(self.selector))
        if self.budget is not None:
            check_at_least("budget", self.budget, 1, " visual token")
        check_budget_mass(self.budget_mass, self.budget_split)
        if self.scoring_only and self.selector != "self":
            raise ValueError(f'scoring_only needs selector="self", got {self.selector!r}')
        check_looks(vars(self), {option.name: option.default for option in fields(self)})
        check_engine(self.engine, engine_url=self.engine_url, engine_options=self.engine_options)

    @property
    def of_first_look(self) -> Options:
        """Options of the first look, which may have a reference layer of its own."""
        return self if self.first_look_layer is None else replace(self, reference_layer=self.first_look_layer)


@dataclass(frozen=True, kw_only=True)
class AskingOptions(Options):
    """How a run asks its questions; see `Options` for the rest.

    Args:
        max_new_tokens: the maximum length of an answer, in tokens.
        keep: what is kept between questions about one video, see `VideoSession.keeping`.
        keep_on: device that holds the kept data, or "disk"; None: the model's device.
        feature_cache: folder that keeps vision features for later runs over the same videos; None: no cache.
        feature_cache_gb: maximum size of that folder in GB; the least recently used features are deleted first.
        verify: prove the moments that an answer comes from: the question is asked again without them. It needs scores,
            and costs about two prefills more.
        absent_below: an answer whose `presence` is below this number gets a warning that what was asked for is probably
            not in the video; None: no warning. `validate` proposes a number where annotations say `absent`; `verify`
            has a scale of its own.
    """

    max_new_tokens: int = 64
    keep: Literal["auto", "nothing", "features", "scores_kv"] = placement("auto")
    keep_on: str | None = placement(None)
    feature_cache: str | None = placement(None)
    feature_cache_gb: float = placement(100.0)
    verify: bool = later(False)
    absent_below: float | None = later(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("max_new_tokens", self.max_new_tokens, 1)
        check_verify(self.verify, self.engine)
        check_place(self.keep_on)
        if self.feature_cache is not None and self.cost is not None:
            raise ValueError("feature_cache keeps whole videos in full; with cost, which looks at parts, leave it out")
        if self.feature_cache is not None:
            check_cache(self.feature_cache, self.feature_cache_gb)


class OptionNames(TypedDict, total=False):
    """Names and types of `Options` and of the families' numbers, for editors. A test keeps it complete."""

    dtype: str
    device: str | torch.device | None
    device_map: str | None
    offload_folder: str | None
    attn_implementation: str
    quantization: str | None
    compile: bool
    cache_implementation: str | None
    attention_kernels: str
    reference_layer: int | None
    reduction: str | None
    units_per_set: int
    tokens_per_batch: int | None
    budget: int | None
    budget_split: str
    budget_mass: float | None
    positions: str | None
    selector_alignment: str | None
    scoring_only: bool
    engine: str
    engine_url: str | None
    engine_options: dict[str, Any] | None
    cost: float | None
    first_look_share: float
    first_look_shrink: float
    first_look_layer: int | None
    second_look_area: float
    second_look_gb: float
    fps: float | None
    max_frames: int | None
    min_pixels: int | None
    max_pixels: int | None
    newlines: str | None
    time_step: str
    sampling: str
    thinking: bool
    tolerance: float | None


def option_names(options: type[LoadingOptions]) -> list[str]:
    """List the names of all options of a class."""
    return [option.name for option in fields(options)]


def check_names(options: type[LoadingOptions], names: Iterable[str], caller: str, set_by: Sequence[str] = ()) -> None:
    """Refuse an unknown option, with the nearest right name.

    Args:
        options: the class of the options.
        names: names that were given.
        caller: who takes them, for the message.
        set_by: options that the caller sets itself.
    """
    check_known(names, [name for name in option_names(options) if name not in set_by], caller)


def options_that_change_answers(options: LoadingOptions) -> dict[str, Any]:
    """Return the options that change answers, by name, for the settings of a run."""
    changing = [option for option in fields(options) if option.metadata.get("changes_answer", True)]
    values = {option.name: options.__dict__[option.name] for option in changing}
    new = {option.name: option.default for option in changing if option.metadata.get("later")}
    return {name: value for name, value in values.items() if name not in new or value != new[name]}


def choices_of(hint: Any) -> list[Any]:
    """List the choices of an option by its type, None included if it is allowed; empty if the type lists no choices."""
    parts = [hint] if get_origin(hint) is Literal else list(get_args(hint))
    listed = [value for part in parts if get_origin(part) is Literal for value in get_args(part)]
    return [*listed, *([None] if listed and type(None) in parts else [])]
