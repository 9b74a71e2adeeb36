"""What a VideoLLM family must say about itself. Abstract or final: what is not abstract here is never overridden."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from flexselect.families.decoding import greedy
from flexselect.families.merging import deepstacked, merged
from flexselect.families.prompter import Prompter
from flexselect.loading.weights import LoadOptions, describing, read_config
from flexselect.structures.layout import Layout
from flexselect.structures.prompt import EncodedVideo, Selection, VideoClip, VideoPrompt

VisionProjector = Callable[[Tensor, tuple[int, int, int]], Tensor]  # `VideoLM.vision`'s [*, C], grid -> [v, d]


class VideoFamily(ABC):
    """Names and numbers of one kind of VideoLLM: light, picklable, no weights.

    A checkpoint's config.json may carry a "flexselect" object with its own defaults for the numbers of its family, and
    for `reference_layer` and `budget`; the published ones are used otherwise.
    """

    name: str  # of the model, for errors
    numbers: tuple[str, ...]  # arguments that decide what the model sees
    frames_per_unit: int
    published_budget: int
    published_layers: dict[int, int]  # reference layer by the LLM's number of layers
    default_positions: str  # "original" or "compact", as the released code has it for this family
    released_budget_in_units: bool  # whether the released code rounds a budget up to whole units

    # Final: what a constructor begins with, and what follows from the above.

    def open(self, path: str) -> dict[str, Any]:
        """Read config.json into `config`; returns the checkpoint's own defaults.

        Raises:
            FileNotFoundError: no checkpoint at `path`.
            ValueError: a checkpoint of another family.
        """
        self.path = path
        self.config = read_config(path)
        if not self.claims(self.config):
            found = self.config.get("architectures") or self.config.get("model_type")
            raise ValueError(f"{path} is not a {self.name} checkpoint: its config.json says {found}")
        with describing(path):
            self.model_config = self.read_model_config()
        return self.config.get("flexselect", {})

    @property
    def settings(self) -> dict[str, Any]:
        """The numbers that decide what the model sees, for the record of a run."""
        return {"class": type(self).__name__, "path": self.path} | {name: self.__dict__[name] for name in self.numbers}

    @property
    def identity(self) -> dict[str, Any]:
        """The same wherever the checkpoint lies: its weights are known by their hash."""
        return {name: value for name, value in self.settings.items() if name != "path"}

    @property
    def num_layers(self) -> int:
        """Decoder layers of the LLM."""
        return self.model_config.get_text_config().num_hidden_layers

    @property
    def default_budget(self) -> int:
        """K."""
        return self.config.get("flexselect", {}).get("budget", self.published_budget)

    @property
    def default_reference_layer(self) -> int:
        """The published layer for this size, 0-based, or the same relative depth where none was published."""
        depth, layer = next(iter(self.published_layers.items()))
        guess = self.published_layers.get(self.num_layers, round(self.num_layers * layer / depth))
        return self.config.get("flexselect", {}).get("reference_layer", guess)

    # Abstract.

    @staticmethod
    @abstractmethod
    def claims(config: dict[str, Any]) -> bool:
        """Whether a config.json is of this family."""

    @abstractmethod
    def read_model_config(self) -> PreTrainedConfig:
        """The checkpoint's sizes as its transformers class takes them, whatever the layout of the files."""

    @property
    @abstractmethod
    def selector_inputs(self) -> dict[str, Any] | None:
        """What a selector made for this family takes, see `LiteSelectorConfig`; None where none can be made."""

    @abstractmethod
    def sample(self, num_frames: int, fps: float) -> list[int]:
        """Which of a video's frames are looked at: indices, ascending, at least one."""

    @abstractmethod
    def on_picture(self, tokens: Tensor, grid: Sequence[int]) -> Tensor:
        """Values of a video's visual tokens, [V], as they lie on its frames: [U, rows, columns].

        Tokens that lie on no picture, newlines and brackets, are left out.
        """

    @abstractmethod
    def prompter(self) -> Prompter:
        """Build the CPU half."""

    @abstractmethod
    def load(self, options: LoadOptions) -> VideoLM:
        """Build the device half with its weights."""

    @abstractmethod
    def wrap(self, model: PreTrainedModel) -> VideoLM:
        """Make the device half of a model that is already there."""


class VideoLM(ABC):
    """The device half of a family: the weights, and what the method needs of them.

    Args:
        model: the Hugging Face model, unmodified.
        family: its names and numbers.
    """

    units_per_step: int  # units through the tower at a time: bounds memory, changes nothing
    cache_implementation: str | None = None  # of `generate`

    def __init__(self, model: Any, family: VideoFamily) -> None:
        self.model = model
        self.family = family

    @property
    @abstractmethod
    def visual_id(self) -> int:
        """The placeholder id of a visual token."""

    @property
    @abstractmethod
    def decoder(self) -> Any:
        """The text model inside, without its head."""

    @abstractmethod
    def vision(self, pixel_values: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """The tower's view of some units, `grid` of them, before projection: what a selector sees too, [*, C]."""

    @abstractmethod
    def project(self, vision: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """That, as visual tokens of the LLM: [v, W], see `EncodedVideo.features`."""

    @abstractmethod
    def projector_weights(self) -> dict[str, Tensor]:
        """The weights of `project`, by their names in a selector's projector (`flexselect.selectors.projectors`)."""

    @abstractmethod
    def position_ids(self, layout: Layout, grid: Sequence[int], seconds_per_unit: float) -> Tensor:
        """Positions of a prompt's tokens, visual ones in a `grid` of units, rows and columns: int64 [P, N]."""

    @abstractmethod
    def prompt_from_tensors(self, **tensors: Tensor) -> VideoPrompt:
        """Make a prompt of tensors that are already in the model's own input form."""

    def embed(self, ids: Tensor) -> Tensor:
        """Text ids [...] to embeddings [..., D]. The one method that a family may extend."""
        return self.decoder.get_input_embeddings()(ids.to(self.device))

    # Final from here on.

    @cached_property
    def prompter(self) -> Prompter:
        """The CPU half, built on first use: a folder without a tokenizer still scores and generates."""
        return self.family.prompter()

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        table = self.decoder.get_input_embeddings()
        if table.weight.is_meta:  # kept elsewhere by accelerate, and brought in for each call
            return torch.device(table._hf_hook.execution_device)
        return table.weight.device

    def speed_up(self, compile: bool, cache_implementation: str | None) -> None:
        """Compile the decoder's layers, one after another (the first call of each form is slow); choose a cache."""
        self.cache_implementation = cache_implementation
        if compile:
            for layer in self.decoder.layers:
                layer.compile(dynamic=True)

    def tower(self, pixel_values: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Pixel values of some units, `grid` of them, to visual tokens: [v, W]."""
        return self.project(self.vision(pixel_values, grid), grid)

    @torch.inference_mode()
    def views(self, clip: VideoClip) -> Iterator[tuple[Tensor, tuple[int, int, int]]]:
        """The tower over a clip, some units at a time: `vision` of them, and their grid.

        Units are independent in the tower, so chunks give what the whole would.
        """
        for first in range(0, clip.num_units, self.units_per_step):
            last = min(first + self.units_per_step, clip.num_units)
            grid = (last - first, *clip.grid[1:])
            yield self.vision(self._pixel_values(clip, first, last), grid), grid

    def _pixel_values(self, clip: VideoClip, first: int, last: int) -> Tensor:
        per_unit = len(clip.pixels) // clip.num_units
        pixels = clip.pixels[first * per_unit : last * per_unit].to(self.device)  # bytes: a quarter of what floats take
        if pixels.dtype != torch.uint8:
            return pixels
        return self.prompter.pixel_values(replace(clip, pixels=pixels), 0, last - first)

    @torch.inference_mode()
    def assemble(
        self, encoded: EncodedVideo, query_ids: Tensor, selection: Selection | None, positions: str
    ) -> dict[str, Any]:
        """The LLM's input after selection: all text, and of the visual tokens those that are kept, in their order.

        Args:
            encoded: the video, V tokens.
            query_ids: [Q].
            selection: None keeps all V tokens (dense).
            positions: "original" keeps the kept tokens' positions, gaps and all; "compact" counts 0, 1, 2, ...

        Returns:
            `input_ids` [1, n] (for logits processors that look at the prompt), `inputs_embeds` [1, n, D],
            `position_ids` [P, 1, n] or [1, n], `attention_mask` [1, n] of ones, and keywords for `deepstack`.
        """
        layout = encoded.layout(query_ids, self.visual_id)
        where = self.position_ids(layout, encoded.grid, encoded.seconds_per_unit)
        keep, features = torch.ones_like(layout.visual), encoded.features
        if selection is not None:
            keep = layout.kept_mask(selection.kept, selection.shift)
            features = features[keep[layout.visual].to(features.device)]
        features = features.to(self.device)
        where = where[:, keep].to(self.device)  # [P, n]
        if positions == "compact":
            where = torch.arange(where.shape[1], device=self.device).expand(where.shape[0], -1)
        ids = layout.ids[keep][None].to(self.device)
        embeddings, deepstack = merged(self.embed, ids, layout.visual[keep], features[None])
        return {
            "input_ids": ids,
            "inputs_embeds": embeddings,
            "position_ids": where[:, None] if len(where) > 1 else where,
            "attention_mask": torch.ones_like(ids),
            "deepstack": deepstack,
        }

    @torch.inference_mode()
    def next_token_logits(self, inputs: dict[str, Any]) -> Tensor:
        """Logits of the first new token: float32 [vocab].

        Raises:
            ValueError: if the model was loaded for scoring only.
        """
        self._require_all_layers()
        embedded = {name: value for name, value in inputs.items() if name not in ("input_ids", "deepstack")}
        with deepstacked(self.decoder, inputs["deepstack"]):
            return self.model(**embedded, use_cache=False, logits_to_keep=1).logits[0, -1].float()

    @torch.inference_mode()
    def generate(
        self,
        inputs: dict[str, Any],
        max_new_tokens: int,
        on_token: Callable[[], None],
        end_of_turn: int | None = None,
    ) -> list[Tensor]:
        """Greedy decoding; positions go on from the last one.

        Args:
            inputs: what `assemble` returned; several are a batch, see `flexselect.engine.batching`.
            max_new_tokens: at most so many.
            on_token: called when a token's logits are there; the first call ends the prefill.
            end_of_turn: an id to stop at, beside those that the checkpoint's own generation settings name.

        Returns:
            int64 [n] a prompt, the new tokens.

        Raises:
            ValueError: if the logits are NaN: no token would mean anything; or for a model loaded for scoring only.
        """
        self._require_all_layers()
        embedded = {name: value for name, value in inputs.items() if name != "deepstack"}
        with deepstacked(self.decoder, inputs["deepstack"]):
            cache = {"cache_implementation": self.cache_implementation} if self.cache_implementation else {}
            return greedy(self.model, embedded, max_new_tokens, on_token, end_of_turn, **cache)

    def _require_all_layers(self) -> None:
        have, needed = len(self.decoder.layers), self.family.num_layers
        if have < needed:
            raise ValueError(f"loaded for scoring only: {have} of {needed} decoder layers cannot answer")
