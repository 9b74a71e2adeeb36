"""Clips, prompts and selections.

Notation of all shape comments in the project:

    T decoded frames    U units (a unit is one time step as the LLM sees it)    V visual tokens
    N prompt tokens     Q query rows (text after the video)         K budget
    S frame sets        L reference layer (0-based)    H heads    D width       P position axes (3 for M-RoPE, else 1)

All classes are frozen; `.to(device)` returns a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from flexselect.structures.frames import VideoFacts
from flexselect.structures.layout import Delimiters, Layout, lay_out

Self = TypeVar("Self", bound="_TensorGroup")


@dataclass(frozen=True)
class _TensorGroup:
    """A frozen dataclass whose tensors move to a device together."""

    def to(self: Self, device: torch.device | str) -> Self:
        """Return a copy with all tensors, nested ones too, on `device`."""
        moved: dict[str, Any] = {}
        for f in fields(self):
            value = self.__dict__[f.name]
            if isinstance(value, (Tensor, _TensorGroup)):
                moved[f.name] = value.to(device)
            elif isinstance(value, list):
                moved[f.name] = [item.to(device) for item in value]
        return replace(self, **moved)


@dataclass(frozen=True)
class VideoClip(_TensorGroup):
    """The pixels of one clip, sampled and resized; they do not depend on the question."""

    pixels: Tensor  # uint8 [T, h, w, 3] frames, normalised when they are encoded; or float pixel values for the tower
    grid: tuple[int, int, int]  # units U, and the token rows and columns of a unit
    seconds_per_unit: float = 1.0  # time between units for M-RoPE positions; see the family's `time_step`
    seconds: Tensor | None = None  # float64 [T], when each frame is shown; None if unknown
    delimiters: tuple[Delimiters, ...] = ()  # the text around each unit; empty if there is none
    about: VideoFacts = field(default_factory=VideoFacts)  # how the file was read

    @property
    def num_units(self) -> int:
        """U, the number of units."""
        return self.grid[0]

    @property
    def tower_input(self) -> tuple[int, int, int] | None:
        """Number, height and width of the frames that the tower takes; None: pixel values in patches."""
        shape = self.pixels.shape
        if self.pixels.dtype == torch.uint8:
            return shape[0], shape[1], shape[2]
        return (shape[0], shape[2], shape[3]) if len(shape) == 4 else None


@dataclass(frozen=True)
class VideoPrompt(_TensorGroup):
    """A clip with the text before and after it."""

    clip: VideoClip
    prefix_ids: Tensor  # int64 [A], text before the first visual token
    query_ids: Tensor  # int64 [Q], text after the video
    selector_text: tuple[Tensor, Tensor] | None = None  # prefix and query in the ids of the selector's tokenizer


@dataclass(frozen=True)
class EncodedVideo(_TensorGroup):
    """A clip in the LLM's embedding space, with the text before it; it serves any question."""

    prefix_ids: Tensor  # int64 [A]
    features: Tensor  # [V, D]; with deepstack [V, (1 + E) * D]: the embedding, then what E decoder layers add
    grid: tuple[int, int, int]
    seconds_per_unit: float = 1.0
    delimiters: tuple[Delimiters, ...] = ()
    selector_features: Tensor | None = None  # [V, d], the visual tokens in a selector's embedding space
    selector_text: tuple[Tensor, Tensor] | None = None  # see `VideoPrompt`
    seconds: Tensor | None = None  # float64 [T], when each frame is shown; None if unknown
    about: VideoFacts = field(default_factory=VideoFacts)  # how the file was read
    tower_input: tuple[int, int, int] | None = None  # see `VideoClip`; None if unknown

    @property
    def num_units(self) -> int:
        """U, the number of units."""
        return self.grid[0]

    def __repr__(self) -> str:
        return f"EncodedVideo({self.num_units} units, {self.num_tokens} visual tokens)"

    @property
    def sampling(self) -> dict[str, Any]:
        """How the video was sampled: `grid`, the number of `frames` T and their real `fps` (None if times are unknown).

        For a file also how its frames were chosen, see `VideoFacts`.
        """
        shown = None if self.seconds is None else self.seconds.tolist()
        span = shown[-1] - shown[0] if shown else 0.0
        fps = round((len(shown) - 1) / span, 3) if shown and span > 0 else None
        return {"grid": list(self.grid), "frames": len(shown) if shown else None, "fps": fps, **self.about.facts}

    @property
    def length(self) -> float | None:
        """Length of the whole video in seconds, to the end of the last frame; None if unknown."""
        if self.about.facts.get("seconds") is not None or self.seconds is None:
            return self.about.facts.get("seconds")
        shown = self.seconds.tolist()
        return shown[-1] + ((shown[-1] - shown[0]) / (len(shown) - 1) if len(shown) > 1 else 0.0)

    @property
    def num_tokens(self) -> int:
        """V, the number of visual tokens."""
        return self.features.shape[0]

    @property
    def tokens_per_unit(self) -> int:
        """V / U, the number of visual tokens per unit."""
        return self.num_tokens // self.num_units

    @property
    def num_encoded(self) -> int:
        """The number of visual tokens that were encoded."""
        return len(self.features)

    def holds(self, tokens: Tensor) -> Tensor:
        """Return which of some visual tokens, int64 [*], were encoded: bool [*]."""
        return torch.ones_like(tokens, dtype=torch.bool)

    def take(self, tokens: Tensor) -> Tensor:
        """Return the features of some visual tokens, int64 [n]: [n, W]."""
        return self.features[tokens.to(self.features.device)]

    @cached_property
    def text_per_unit(self) -> list[int]:
        """The number of text tokens around each unit; empty if there are none."""
        return [len(before) + len(after) for before, after in self.delimiters]

    def select_units(self, units: Sequence[int]) -> EncodedVideo:
        """Return a copy with some units only, without `seconds`, `selector_features` and `tower_input`."""
        tokens = torch.arange(self.num_tokens, device=self.features.device).view(self.num_units, -1)[units].flatten()
        delimiters = tuple(self.delimiters[unit] for unit in units) if self.delimiters else ()
        grid = (len(units), *self.grid[1:])
        unknown: dict[str, Any] = dict.fromkeys(("selector_features", "seconds", "tower_input"))
        return replace(self, features=self.features[tokens], grid=grid, delimiters=delimiters, **unknown)

    def clone_features(self) -> EncodedVideo:
        """Return a copy whose features are in memory, not mapped from a file."""
        selector_features = None if self.selector_features is None else self.selector_features.clone()
        return replace(self, features=self.features.clone(), selector_features=selector_features)

    def layout(self, query_ids: Tensor, placeholder: int, units: Sequence[int] | None = None) -> Layout:
        """Lay out the prompt with a query, int64 [Q]; `units` are the numbers of the units to include, None: all."""
        units = range(self.num_units) if units is None else units
        return lay_out(self.prefix_ids, query_ids, units, self.tokens_per_unit, placeholder, self.delimiters)


@dataclass(frozen=True)
class Selection(_TensorGroup):
    """The kept visual tokens, and the scores of all visual tokens."""

    scores: Tensor  # float32 [V], larger is more relevant to the question
    kept: Tensor  # int64 [K], strictly ascending
    sets: list[Tensor]  # the visual tokens of each frame set: S tensors int64 [*]; together all that were scored
    shift: int = 0  # scores belong to tokens this many places before the visual tokens (released InternVL selectors)

    def __repr__(self) -> str:
        return f"Selection({len(self.kept)} of {len(self.scores)} tokens kept, {len(self.sets)} frame sets)"
