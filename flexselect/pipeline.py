"""FlexSelect, read top to bottom: open a video once, then score, select and answer for each question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from flexselect.checks import check_options, checked_frames, checked_seconds
from flexselect.choices import check_choice
from flexselect.clock import Clock
from flexselect.families import family_of
from flexselect.families.base import VideoFamily, VideoLM
from flexselect.families.loading import LoadOptions
from flexselect.feature_cache import read_encoded
from flexselect.fingerprint import weights_hash
from flexselect.partition import frame_sets, split_budget, split_budget_released
from flexselect.prepared import PreparedSets
from flexselect.prompt import EncodedVideo, Selection, VideoClip, VideoPrompt
from flexselect.scorers import CONTROLS, AttentionScorer, LiteScorer, ReferenceLayerScorer, Scorer, is_trained
from flexselect.selection import select
from flexselect.selector import LiteSelector
from flexselect.session import VideoSession
from flexselect.settings import differences

VideoReader = Callable[
    [str, Callable[[int, float], Sequence[int]], Callable[[Tensor], Tensor]], tuple[Tensor, Tensor]
]  # (path, family.sample, prompter.resize) -> resized frames uint8 [T, h, w, 3], seconds float64 [T]


class FlexSelect:
    """A VideoLLM that is shown only the visual tokens a question needs (FlexSelect, arXiv 2506.00993).

    Args:
        lm: the loaded VideoLLM.
        family: its names and numbers.
        scorer: ranks the visual tokens; None shows all of them (dense).
        budget: K, how many are kept; None: the family's default.
        units_per_set: the most units scored together.
        budget_split: "exact": the sets' budgets sum to min(K, V); "released": int(K / S) each, as the released code.
        positions: of kept tokens, "original" or "compact"; None: the family's.
    """

    def __init__(
        self,
        lm: VideoLM,
        family: VideoFamily,
        scorer: Scorer | None = None,
        budget: int | None = None,
        units_per_set: int = 64,
        budget_split: str = "exact",
        positions: str | None = None,
    ) -> None:
        self.lm = lm
        self.family = family
        self.scorer = scorer
        self.budget = family.default_budget if budget is None else budget
        self.units_per_set = units_per_set
        self.budget_split = budget_split
        self.positions = positions or family.default_positions
        if self.budget < 1:
            raise ValueError(f"budget must be at least 1 visual token, got {self.budget}")
        check_choice("budget_split", budget_split, ("exact", "released"))
        check_choice("positions", self.positions, ("original", "compact"))

    @classmethod
    def from_pretrained(
        cls,
        path: str | VideoFamily,
        selector: str | None = None,
        reference_layer: int | None = None,
        budget: int | None = None,
        units_per_set: int = 64,
        reduction: str | None = None,
        budget_split: str = "exact",
        positions: str | None = None,
        selector_alignment: str | None = None,
        dtype: str = "bfloat16",
        device: str | torch.device | None = None,
        attn_implementation: str = "sdpa",
        device_map: str | dict | None = None,
        offload_folder: str | None = None,
        quantization: str | None = None,
        scoring_only: bool = False,
        **family_options: Any,
    ) -> FlexSelect:
        """Load a VideoLLM; the family is found from its config.json.

        Args:
            path: local folder or hub id; or a family, where its numbers are set by hand.
            selector: None: dense; "self": training-free; "uniform" or "random": controls; else the folder or hub id of
                a trained selector, released ones included.
            reference_layer: 0-based; None: the family's default for that size; training-free only.
            budget: see the class.
            units_per_set: see the class.
            reduction: "max" or "mean" over heads and query rows; None: as the selector was trained, else "max", as
                every released script.
            budget_split: see the class.
            positions: see the class.
            selector_alignment: "exact", or "released" for the released InternVL selectors (see `LiteScorer.shift`);
                None: what the selector says.
            dtype: of the weights: "bfloat16", "float16" or "float32".
            device: None: the first GPU if there is one, else the CPU.
            attn_implementation: for answering: "sdpa", "flash_attention_2", ...; scoring always uses SDPA.
            device_map: "auto" spreads a large model over all GPUs, then over memory and disk.
            offload_folder: for what goes to disk.
            quantization: "4bit" or "8bit" weights, where bitsandbytes is installed.
            scoring_only: load the decoder up to the reference layer only: `select` works, `ask` does not.
            family_options: numbers of the family, such as `fps` and `max_frames` (see `flexselect.families`).

        Raises:
            FileNotFoundError: no checkpoint at `path`.
            ValueError: a foreign checkpoint, weights that do not fit, or an option out of range.
        """
        family = path if isinstance(path, VideoFamily) else family_of(path, **family_options)
        check_options(family, selector, reference_layer, budget, units_per_set, reduction, dtype)
        layer = family.default_reference_layer if reference_layer is None else reference_layer
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if scoring_only and selector != "self":
            raise ValueError(f'scoring_only needs selector="self", got {selector!r}')
        lite = None
        if is_trained(selector):
            lite = LiteSelector.from_pretrained(selector, dtype=dtype, device=device)
        depth = layer + 1 if scoring_only else None
        placed = getattr(torch, dtype), device, device_map, offload_folder, attn_implementation, quantization
        lm = family.load(LoadOptions(*placed, depth))
        scorer: Scorer | None = None
        if selector == "self":
            scorer = ReferenceLayerScorer(lm, layer, reduction or "max", units_per_set)
        elif selector in CONTROLS:
            scorer = CONTROLS[selector]()
        elif lite is not None:
            scorer = LiteScorer(lm, lite, reduction, units_per_set, selector_alignment)
        return cls(lm, family, scorer, budget, units_per_set, budget_split, positions)

    # -- a video from a file or from memory

    def open(
        self,
        video: str | Path | Tensor | np.ndarray,
        seconds: Tensor | Sequence[float] | None = None,
        keep: str = "features",
        keep_on: str | None = None,
    ) -> VideoSession:
        """Do once what does not depend on the question: sample, decode, resize and encode.

        Args:
            video: a video file; or frames uint8 [T, h, w, 3], taken as they are.
            seconds: when each frame is shown, float [T]; only with frames.
            keep: see `VideoSession.keeping`.
            keep_on: see there.

        Raises:
            ValueError: what the reader says of a file it cannot read, or frames of another form.
        """
        clock = Clock(self.lm.device)
        prompter = self.lm.prompter
        with clock("decode"):
            if isinstance(video, (str, Path)):
                frames, seconds = _video_reader()(str(video), self.family.sample, prompter.resize)
            else:
                frames = prompter.resize(checked_frames(video))
                seconds = None if seconds is None else checked_seconds(seconds, len(frames))
            clip = prompter.clip(frames, seconds)
        return self.open_clip(clip, clock.timings).keeping(keep, keep_on)

    def open_clip(self, clip: VideoClip, timings: dict[str, float] | None = None) -> VideoSession:
        """Encode a clip that was decoded elsewhere, in a worker for one.

        Args:
            clip: sampled and resized.
            timings: seconds already spent on it, by stage.
        """
        clock = Clock(self.lm.device, timings)
        with clock("encode"):
            encoded = self.encode(VideoPrompt(clip, self.lm.prompter.prefix_ids, torch.empty(0, dtype=torch.long)))
        return VideoSession(self, clip, encoded, clock.timings)

    def open_encoded(self, encoded: EncodedVideo, timings: dict[str, float] | None = None) -> VideoSession:
        """Take up a video that was encoded before, by this model; see `flexselect.feature_cache`.

        Args:
            encoded: on any device.
            timings: seconds already spent on it, by stage.
        """
        return VideoSession(self, None, encoded.to(self.lm.device), timings or {})

    def load_session(self, file: str | Path) -> VideoSession:
        """Take up what `VideoSession.save` wrote, with this model and selector; the video itself is not needed.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file that is broken, or of another model or sampling, naming what differs.
        """
        try:
            encoded, made_with = read_encoded(Path(file), self.lm.prompter.prefix_ids)
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{file} holds no session, or is cut short ({error}): save it again") from error
        other = differences(made_with, self.made_with)
        if other:
            raise ValueError(f"{file} was saved by another model ({other}): open the video again")
        if encoded.seen is None and isinstance(self.scorer, LiteScorer):
            raise ValueError(f"{file} was saved without a trained selector: open the video again")
        return self.open_encoded(encoded)

    @property
    def made_with(self) -> dict[str, Any]:
        """What features depend on, beside the video: weights and the family's numbers."""
        return {"weights": weights_hash(self.family.path), "dtype": str(self.lm.model.dtype), **self.family.identity}

    # -- prepared tensors

    def prompt_from_tensors(self, **tensors: Tensor) -> VideoPrompt:
        """Make a prompt of the model's own input tensors; see the family's `prompt_from_tensors` for their names.

        A selector with a tokenizer of its own also takes `selector_input_ids`, the whole prompt in its ids.
        """
        selector_ids = tensors.pop("selector_input_ids", None)
        prompt = self.lm.prompt_from_tensors(**tensors)
        if selector_ids is None:
            return prompt
        if not isinstance(self.scorer, LiteScorer):
            raise ValueError("selector_input_ids are for a trained selector: load with selector=DIR")
        return replace(prompt, selector_text=self.scorer.split(selector_ids))

    def select(self, prompt: VideoPrompt) -> Selection:
        """Score the visual tokens of a prompt and keep the budget's worth."""
        return self.select_encoded(self.encode(prompt), prompt.query_ids)

    def next_token_logits(self, prompt: VideoPrompt, selection: Selection | None = None) -> Tensor:
        """Logits after the prompt, float32 [vocab]; dense without a selection."""
        inputs = self.lm.assemble(self.encode(prompt), prompt.query_ids, selection, self.positions)
        return self.lm.next_token_logits(inputs)

    def generate(self, prompt: VideoPrompt, selection: Selection | None = None, max_new_tokens: int = 64) -> Tensor:
        """Greedy answer, int64 [n], new tokens only; dense without a selection."""
        inputs = self.lm.assemble(self.encode(prompt), prompt.query_ids, selection, self.positions)
        return self.lm.generate(inputs, max_new_tokens, on_token=lambda: None)

    # -- the method

    def encode(self, prompt: VideoPrompt) -> EncodedVideo:
        """Vision tower and projection; does not look at the question."""
        return self.lm.encode(prompt, self.scorer.selector.project if isinstance(self.scorer, LiteScorer) else None)

    def select_encoded(
        self, encoded: EncodedVideo, query_ids: Tensor, prepared: list[PreparedSets] | None = None
    ) -> Selection:
        """Score, then keep the best of each frame set.

        Args:
            encoded: the video.
            query_ids: the text after it, int64 [Q].
            prepared: what the scorer's `prepare` made of the video; None: nothing.

        Raises:
            ValueError: without a scorer (dense): there is nothing to select by.
        """
        if self.scorer is None:
            raise ValueError('nothing to select by: load with selector="self", "uniform" or "random"')
        if prepared is not None and isinstance(self.scorer, AttentionScorer):
            scores = self.scorer.score_prepared(encoded, query_ids, prepared)
        else:
            scores = self.scorer.score(encoded, query_ids)
        sets = frame_sets(encoded.num_units, encoded.tokens_per_unit, self.units_per_set)
        sizes = [len(tokens) for tokens in sets]
        if self.budget_split == "exact":
            shares = split_budget(self.budget, sizes)
        else:
            multiple = encoded.tokens_per_unit if self.family.released_budget_in_units else 1
            shares = split_budget_released(self.budget, sizes, multiple)
        selection = select(scores, sets, shares)
        shift = self.scorer.shift(encoded) if isinstance(self.scorer, LiteScorer) else 0
        return replace(selection, shift=shift) if shift else selection


def _video_reader() -> VideoReader:
    """The decoder, found by entry point so that this package depends on none.

    Raises:
        RuntimeError: if none is installed.
    """
    readers = entry_points(group="flexselect.video_readers")
    for reader in readers:
        return reader.load()
    raise RuntimeError("no video reader is installed: run `pip install -e .`, or pass frames to open(frames, seconds)")
