"""Facts of a model before it is loaded, from its configuration files alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from transformers import AutoModelForImageTextToText

from flexselect.families.base import VideoFamily
from flexselect.families.prompter import Prompter
from flexselect.loading.checkpoint_files import weight_files
from flexselect.looks.plan import look_sizes, plan_looks
from flexselect.options import Options
from flexselect.scoring.factory import is_trained, ranks_content, reference_layer
from flexselect.selectors.lite_selector import LiteSelector, LiteSelectorConfig, selector_at
from flexselect.structures.prompt import VideoClip

LONG = 10**7, 30.0  # frames, and frames per second, of a video that is longer than any limit of frames


@dataclass(frozen=True)
class Plan:
    """A model that is to be loaded with these options."""

    family: VideoFamily
    options: Options

    @cached_property
    def prompter(self) -> Prompter:
        """The CPU half of the family; reading its tokenizer takes a second."""
        return self.family.prompter()

    @cached_property
    def weights(self) -> int:
        """Number of weights of the VideoLLM; takes a second and no memory."""
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(self.family.model_config)
        return sum(weight.numel() for weight in model.parameters())

    @cached_property
    def selector(self) -> LiteSelectorConfig | None:
        """The configuration of the trained selector; None: another mode, or its files are not on this machine yet.

        Raises:
            FileNotFoundError: no selector at the path.
            ValueError: it is no selector.
        """
        path = self.options.selector
        if not is_trained(path) or None in weight_files(path, download=False).values():
            return None
        return selector_at(path)[1]

    @cached_property
    def selector_weights(self) -> int:
        """Number of weights of the trained selector; 0: there is none, or its files are not on this machine yet."""
        if self.selector is None:
            return 0
        with torch.device("meta"):
            return sum(weight.numel() for weight in LiteSelector(self.selector).parameters())

    @property
    def ranks_content(self) -> bool:
        """Whether tokens are chosen by what they show."""
        return ranks_content(self.options.selector)

    @property
    def layer(self) -> int:
        """The reference layer, 0-based."""
        return reference_layer(self.family, self.options)

    @property
    def max_frames(self) -> int:
        """The most frames that the family takes of a video."""
        return len(self.family.sample(*LONG))

    def kept(self, tokens: int) -> int:
        """Return how many of a video's visual tokens are kept."""
        options = self.options
        return tokens if options.selector is None else min(tokens, options.budget or self.family.default_budget)

    def clip(self, frames: int, height: int = 720, width: int = 1280) -> VideoClip:
        """Return the shape of a clip, without pixels: frames of a video of this size as the family resizes them."""
        resized = self.prompter.resize(torch.zeros(1, height, width, 3, dtype=torch.uint8)).shape[1:3]
        return self._shape(frames, *resized)

    def looks(self, clip: VideoClip) -> list[VideoClip]:
        """Return the shapes of what is encoded of a clip: all of it, or with `cost` what each look takes."""
        options, per_unit = self.options, self.family.frames_per_unit
        _, height, width, _ = clip.pixels.shape
        if options.cost is None:
            return [clip]
        plan = plan_looks(clip.num_units, per_unit, options.cost, options.first_look_share)
        looks = options.first_look_shrink, options.second_look_area
        small, region = look_sizes(height, width, self.prompter.token_side, *looks)
        return [self._shape(len(plan.coarse) * per_unit, *small), self._shape(plan.fine * per_unit, *region)]

    def scored(self, clip: VideoClip) -> list[tuple[Plan, VideoClip]]:
        """Return `looks`, each with a plan that has its reference layer."""
        looks, options = self.looks(clip), self.options.of_first_look
        first = self if options is self.options else replace(self, options=options)
        return list(zip([first, self][-len(looks) :], looks))

    def _shape(self, frames: int, height: int, width: int) -> VideoClip:
        return self.prompter.clip(torch.empty(frames, height, width, 3, dtype=torch.uint8, device="meta"))
