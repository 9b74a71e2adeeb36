"""The interface of VideoLLM families. Members are abstract or final: final members are never overridden."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedConfig, PreTrainedModel

from flexselect.attention.kernels import attention_kernels
from flexselect.attention.layers import attention_layers, layer_at_same_depth
from flexselect.attention.states import Past, cache_keyword, cache_of, length_of
from flexselect.families.prompter import Prompter
from flexselect.loading.checkpoint_files import check_defaults, describing, kind_of, read_config
from flexselect.loading.placement import device_of, gpus_of
from flexselect.loading.weights import LoadOptions
from flexselect.running.greedy import NewTokens, answering, greedy
from flexselect.running.merging import kept_inputs, whole_prompt
from flexselect.shipped import checkpoint_folder
from flexselect.structures.frames import WHOLE_VIDEO, ReadOptions
from flexselect.structures.layout import Layout
from flexselect.structures.prompt import EncodedVideo, Selection, VideoClip, VideoPrompt

LATER = (("sampling", "exact"), ("tolerance", None))  # defaults younger than version 0.1: settings leave them out

VisionProjector = Callable[[Tensor, tuple[int, int, int]], Tensor]  # `VideoLM.vision`'s [*, C], grid -> [v, d]


class VideoFamily(ABC):
    """The configuration of one family of VideoLLMs: small, picklable, without weights.

    A checkpoint's config.json may have a "flexselect" object with defaults for the family's numbers, `reference_layer`
    and `budget`. Otherwise the published defaults are used.
    """

    name: str  # name of the model, for errors
    numbers: tuple[str, ...]  # constructor arguments that change what the model sees
    frames_per_unit: int
    published_budget: int
    published_layers: dict[int, int]  # reference layer by number of decoder layers
    default_positions: str  # "original" or "compact", as in the released code
    penalises_prompt: bool = True  # whether a repetition penalty counts the prompt's ids, as in the released evaluation
    released_budget_in_units: bool  # whether the released code rounds a budget up to whole units

    # Final: open a checkpoint, and read its numbers.

    def open(self, path: str, sampling: str = "exact", tolerance: float | None = None) -> dict[str, Any]:
        """Read config.json into `config`; return the checkpoint's defaults.

        Args:
            path: local folder or hub id.
            sampling: "exact": the frames that `sample` chooses; "near": frames nearby that are cheaper to decode.
            tolerance: seconds that a frame of "near" may be away; None: half the distance of the chosen frames.

        Raises:
            FileNotFoundError: if there is no checkpoint at `path`.
            ValueError: if the checkpoint is of another family, or an argument is wrong.
        """
        self.sampling, self.tolerance = sampling, tolerance
        self.reading(WHOLE_VIDEO)  # refuses what is wrong
        self.path = path = checkpoint_folder(path)
        self.config = read_config(path)
        if not self.claims(self.config):
            raise ValueError(f"{path} is not a {self.name} checkpoint: its config.json says {kind_of(self.config)}")
        with describing(path):
            self.model_config = self.read_model_config()
        return check_defaults(path, self.config, attention_layers(self.model_config.get_text_config()))

    @property
    def settings(self) -> dict[str, Any]:
        """The class, the path and the numbers that change what the model sees, as recorded with results."""
        numbers = {name: self.__dict__[name] for name in self.numbers if (name, self.__dict__[name]) not in LATER}
        return {"class": type(self).__name__, "path": self.path} | numbers

    @property
    def identity(self) -> dict[str, Any]:
        """The settings without the path: a moved checkpoint keeps its identity."""
        return {name: value for name, value in self.settings.items() if name != "path"}

    def reading(self, options: ReadOptions) -> ReadOptions:
        """Add how this family takes frames from a file to how the file is read."""
        return replace(options, sampling=self.sampling, tolerance=self.tolerance)

    @property
    def num_layers(self) -> int:
        """Number of decoder layers."""
        return self.model_config.get_text_config().num_hidden_layers

    @property
    def default_budget(self) -> int:
        """The budget K: from the checkpoint's config.json, else the published one."""
        return self.config.get("flexselect", {}).get("budget", self.published_budget)

    @property
    def default_reference_layer(self) -> int:
        """The reference layer, 0-based: the checkpoint's, else the published one, else the same relative depth."""
        guess = layer_at_same_depth(self.model_config.get_text_config(), self.published_layers)
        return self.config.get("flexselect", {}).get("reference_layer", guess)

    # Abstract.

    @staticmethod
    @abstractmethod
    def claims(config: dict[str, Any]) -> bool:
        """Return whether a config.json is of this family."""

    @abstractmethod
    def read_model_config(self) -> PreTrainedConfig:
        """Read the configuration for the transformers class, from any layout of the checkpoint."""

    @property
    @abstractmethod
    def selector_inputs(self) -> dict[str, Any] | None:
        """Fields of `LiteSelectorConfig` for a selector of this family; None if there can be no selector."""

    @abstractmethod
    def sample(self, num_frames: int, fps: float) -> list[int]:
        """Choose which frames are read: indices, ascending, at least one."""

    @abstractmethod
    def on_picture(self, tokens: Tensor, grid: Sequence[int]) -> Tensor:
        """Arrange one value per visual token, [V], on the frames: [U, rows, columns].

        Tokens outside the picture (newlines and delimiters) are left out.
        """

    @abstractmethod
    def prompter(self) -> Prompter:
        """Build the CPU half of the family."""

    @abstractmethod
    def load(self, options: LoadOptions) -> VideoLM:
        """Load the weights and build the device half of the family."""

    @abstractmethod
    def wrap(self, model: PreTrainedModel) -> VideoLM:
        """Build the device half of the family from a loaded model."""


class VideoLM(ABC):
    """The device half of a family: the weights and the parts of the model that the method needs.

    Args:
        model: the Hugging Face model, unmodified.
        family: the family of the model.
    """

    units_per_step: int  # units per call of the tower: bounds memory, does not change results
    cache_implementation: str | None = None  # the cache that `generate` uses; None: the model's default
    kernels: str = "flash"  # which attention kernel the tower and answering prefer, see `attention_kernels`

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
        """The text model without its head."""

    @abstractmethod
    def vision(self, pixel_values: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Run the tower on a `grid` of units, without projection: [*, C]. Selectors use this output too."""

    @abstractmethod
    def project(self, vision: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Project the output of `vision` to visual tokens of the LLM: [v, W], see `EncodedVideo.features`."""

    @abstractmethod
    def projector_weights(self) -> dict[str, Tensor]:
        """Return the weights of `project`, named as in a selector's projector (`flexselect.selectors.projectors`)."""

    @abstractmethod
    def position_ids(self, layout: Layout, grid: Sequence[int], seconds_per_unit: float) -> Tensor:
        """Compute positions of N tokens; the visual tokens form a `grid` of units, rows, columns: int64 [P, N]."""

    @abstractmethod
    def prompt_from_tensors(self, **tensors: Tensor) -> VideoPrompt:
        """Make a prompt from tensors in the model's input format."""

    def logits_from_pixels(self, prompt: VideoPrompt) -> Tensor | None:
        """Run transformers' whole model, to compare with: float32 [vocab]; None: it takes no such prompt."""
        return None

    def embed(self, ids: Tensor) -> Tensor:
        """Embed text ids [...]: [..., D]. A family may extend this method only."""
        return self.decoder.get_input_embeddings()(ids.to(self.device))

    # Final from here on.

    @cached_property
    def prompter(self) -> Prompter:
        """The CPU half, built on first use, so that a folder without a tokenizer can still score and generate."""
        return self.family.prompter()

    @property
    def device(self) -> torch.device:
        """The device that inputs are moved to."""
        return device_of(self.decoder.get_input_embeddings())

    @cached_property
    def gpus(self) -> set[torch.device]:
        """All GPUs that hold weights of the model."""
        return gpus_of(self.model)

    @torch.inference_mode()
    def vision_chunks(self, clip: VideoClip) -> Iterator[tuple[Tensor, tuple[int, int, int]]]:
        """Run the tower on a clip, a few units at a time; yield each output of `vision` and its grid.

        The tower treats units independently, so chunks give the same result as the whole clip.
        """
        for first in range(0, clip.num_units, self.units_per_step):
            last = min(first + self.units_per_step, clip.num_units)
            grid = (last - first, *clip.grid[1:])
            with attention_kernels(self.kernels):
                vision = self.vision(self._pixel_values(clip, first, last), grid)
            yield vision, grid

    def _pixel_values(self, clip: VideoClip, first: int, last: int) -> Tensor:
        per_unit = len(clip.pixels) // clip.num_units
        pixels = clip.pixels[first * per_unit : last * per_unit].to(self.device)  # uint8: a quarter of float32's bytes
        if pixels.dtype != torch.uint8:
            return pixels
        return self.prompter.pixel_values(replace(clip, pixels=pixels), 0, last - first)

    @torch.inference_mode()
    def assemble(
        self, encoded: EncodedVideo, query_ids: Tensor, selection: Selection | None, positions: str
    ) -> dict[str, Any]:
        """Make the LLM's input: all text, and the kept visual tokens in order.

        Args:
            encoded: the video, with V visual tokens.
            query_ids: the text after the video, int64 [Q].
            selection: the kept tokens; None: all V (dense).
            positions: "original": the positions in the whole prompt, with gaps; "compact": 0, 1, 2, ...

        Returns:
            `input_ids` [1, n] (logits processors may read the prompt), `inputs_embeds` [1, n, D],
            `position_ids` [P, 1, n] or [1, n], `attention_mask` [1, n] of ones, and `deepstack`: the decoder's keyword
            arguments for deepstack, empty for models without it.
        """
        return kept_inputs(self, encoded, whole_prompt(self, encoded, query_ids), selection, positions)

    def next_token_logits(self, inputs: dict[str, Any]) -> Tensor:
        """Return the logits of the first new token, float32 [vocab]; a ValueError if loaded for scoring only."""
        return self.last_logits(inputs, 1)[0, -1]

    @torch.inference_mode()
    def last_logits(self, inputs: dict[str, Any], count: int, past: Past | None = None) -> Tensor:
        """Return the logits of the last `count` places of each prompt, float32 [B, count, vocab].

        With `past`, keys and values [1, H_kv, n, d] of what all prompts begin with, `inputs` are what follows.
        """
        cache: dict[str, Any] = {"use_cache": False}
        if past is not None:  # the decoder wants the mask of all keys
            inputs = {**inputs, "attention_mask": pad(inputs["attention_mask"], (length_of(past), 0), value=1)}
            cache = {cache_keyword(self.model): cache_of(past, copies=len(inputs["attention_mask"]))}
        with answering(self, inputs, {"input_ids", "deepstack"}) as embedded:
            return self.model(**embedded, **cache, logits_to_keep=count).logits[:, -count:].float()

    @torch.inference_mode()
    def generate(
        self,
        inputs: dict[str, Any],
        max_new_tokens: int,
        on_token: Callable[[Tensor], None],
        end_of_turn: int | None = None,
        keep_past: bool = False,
    ) -> list[NewTokens]:
        """Decode greedily; positions continue after the prompt's last position.

        Args:
            inputs: the output of `assemble`; `flexselect.engine.batching` makes a batch of several.
            max_new_tokens: the maximum number of new tokens.
            on_token: called with each prompt's next token, [B]; the first call marks the end of the prefill.
            end_of_turn: an id to stop at, besides those in the checkpoint's generation settings; None: no other id.
            keep_past: whether to return the keys and values of the prompts too.

        Returns:
            The new tokens of each prompt.

        Raises:
            ValueError: if logits are NaN, or if the model was loaded for scoring only.
        """
        left_out = {"deepstack"} if self.family.penalises_prompt else {"deepstack", "input_ids"}
        with answering(self, inputs, left_out) as embedded:
            cache = self.cache_implementation
            return greedy(self.model, embedded, max_new_tokens, on_token, end_of_turn, cache, keep_past)
