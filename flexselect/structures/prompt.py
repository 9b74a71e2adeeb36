"""What travels between the rooms: clips, prompts, selections, answers.

Notation, used in every shape comment of the project:

    T decoded frames    U units (a unit is one time step as the LLM sees it)    V visual tokens
    N prompt tokens     Q query rows (text after the last visual token)         K budget
    S frame sets        L reference layer (0-based)    H heads    D width       P position axes (3 for M-RoPE, else 1)

All classes are frozen; `.to(device)` returns a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from flexselect.structures.frames import VideoFacts
from flexselect.structures.layout import Delimiters, Layout, lay_out

Self = TypeVar("Self", bound="_Movable")


@dataclass(frozen=True)
class _Movable:
    """A frozen dataclass whose tensors move to a device together."""

    def to(self: Self, device: torch.device | str) -> Self:
        """Return a copy whose tensors, nested ones too, lie on `device`."""
        moved: dict[str, Any] = {}
        for f in fields(self):
            value = self.__dict__[f.name]
            if isinstance(value, (Tensor, _Movable)):
                moved[f.name] = value.to(device)
            elif isinstance(value, list):
                moved[f.name] = [item.to(device) for item in value]
        return replace(self, **moved)


@dataclass(frozen=True)
class VideoClip(_Movable):
    """The pixels of one clip, sampled and resized: all that does not depend on the question."""

    pixels: (
        Tensor  # uint8 [T, h, w, 3] frames, normalised when they are encoded; or float pixel values as the tower takes
    )
    grid: tuple[int, int, int]  # units U, and the token rows and columns of a unit
    seconds_per_unit: float = 1.0  # what the positions are told; see `time_step` of the family
    seconds: Tensor | None = None  # float64 [T], when each frame is shown; None if unknown
    delimiters: tuple[Delimiters, ...] = ()  # the text around each unit; empty where units stand side by side
    about: VideoFacts = field(default_factory=VideoFacts)  # how its file was read

    @property
    def num_units(self) -> int:
        """U."""
        return self.grid[0]


@dataclass(frozen=True)
class VideoPrompt(_Movable):
    """A clip between the text before it and the text after it."""

    clip: VideoClip
    prefix_ids: Tensor  # int64 [A], text before the first visual token
    query_ids: Tensor  # int64 [Q], text after the last visual token
    selector_text: tuple[Tensor, Tensor] | None = None  # both again, in the ids of a selector with its own tokenizer


@dataclass(frozen=True)
class EncodedVideo(_Movable):
    """A clip in the LLM's embedding space, with the text before it: ready for any question."""

    prefix_ids: Tensor  # int64 [A]
    features: Tensor  # [V, D]; with deepstack [V, (1 + E) * D]: the embedding, then what E decoder layers add
    grid: tuple[int, int, int]
    seconds_per_unit: float = 1.0
    delimiters: tuple[Delimiters, ...] = ()
    selector_features: Tensor | None = None  # [V, d], the same tokens as a selector sees them
    selector_text: tuple[Tensor, Tensor] | None = None  # see `VideoPrompt`
    seconds: Tensor | None = None  # float64 [T], when each frame is shown; None if unknown
    about: VideoFacts = field(default_factory=VideoFacts)  # how its file was read

    @property
    def num_units(self) -> int:
        """U."""
        return self.grid[0]

    @property
    def sampling(self) -> dict[str, Any]:
        """What of the video is looked at: `grid`; `frames` T and real `fps`, None where the times are unknown.

        Of a file also how frames were chosen, see `VideoFacts`.
        """
        shown = None if self.seconds is None else self.seconds.tolist()
        span = shown[-1] - shown[0] if shown else 0.0
        fps = round((len(shown) - 1) / span, 3) if shown and span > 0 else None
        return {"grid": list(self.grid), "frames": len(shown) if shown else None, "fps": fps, **self.about.facts}

    @property
    def length(self) -> float | None:
        """Seconds of the whole video, to the end of its last frame; None if unknown."""
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
        """V / U."""
        return self.num_tokens // self.num_units

    def select_units(self, units: Sequence[int]) -> EncodedVideo:
        """Some units alone, as a clip of their own."""
        tokens = torch.arange(self.num_tokens, device=self.features.device).view(self.num_units, -1)[units].flatten()
        delimiters = tuple(self.delimiters[unit] for unit in units) if self.delimiters else ()
        grid = (len(units), *self.grid[1:])
        return replace(
            self, features=self.features[tokens], grid=grid, delimiters=delimiters, selector_features=None, seconds=None
        )

    def clone_features(self) -> EncodedVideo:
        """With tensors of its own, where they were parts of a file."""
        seen = None if self.selector_features is None else self.selector_features.clone()
        return replace(self, features=self.features.clone(), selector_features=seen)

    def layout(self, query_ids: Tensor, placeholder: int, units: Sequence[int] | None = None) -> Layout:
        """The prompt with a query, written out; of some units only, if `units` says which."""
        units = range(self.num_units) if units is None else units
        return lay_out(self.prefix_ids, query_ids, units, self.tokens_per_unit, placeholder, self.delimiters)


@dataclass(frozen=True)
class Selection(_Movable):
    """Which visual tokens are kept, and why."""

    scores: Tensor  # float32 [V], larger is more relevant to the question
    kept: Tensor  # int64 [K], strictly ascending
    sets: list[Tensor]  # the visual tokens of each frame set: S tensors int64 [*], together a partition of 0..V-1
    shift: int = 0  # what is kept or dropped lies so many places before the visual tokens (released InternVL selectors)


@dataclass(frozen=True)
class Answer:
    """What was answered, from which tokens, and where the time went."""

    text: str
    selection: Selection | None  # None: dense, every visual token was shown
    num_visual_tokens: int  # V
    num_kept_tokens: int  # K
    timings: dict[str, float] = field(default_factory=dict)  # seconds under decode, encode, score, prefill, generate
