"""FlexSelect, read top to bottom: open a video once, then score, select and answer for each question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flexselect.engine.answering import answers
from flexselect.engine.clock import Clock
from flexselect.engine.encoding import encode, encode_stream
from flexselect.engine.video_source import source_of
from flexselect.families import family_of
from flexselect.families.base import VideoFamily, VideoLM, VisionProjector
from flexselect.loading.weights import LoadOptions
from flexselect.scoring.attention_scorer import AttentionScorer
from flexselect.scoring.factory import check_options, load_selector, make_scorer
from flexselect.scoring.frame_sets import BUDGET_SPLITS, frame_sets, share_budget
from flexselect.scoring.lite import LiteScorer
from flexselect.scoring.prefix_cache import PreparedSets
from flexselect.scoring.scorer import Scorer
from flexselect.scoring.selection import select
from flexselect.session import VideoSession, load_session
from flexselect.structures.frames import FrameStream, ReadOptions
from flexselect.structures.prompt import Answer, EncodedVideo, Selection, VideoClip, VideoPrompt
from flexselect.validation import check_choice


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
        self.lm, self.family, self.scorer = lm, family, scorer
        self.budget = family.default_budget if budget is None else budget
        self.units_per_set = units_per_set
        self.budget_split = budget_split
        self.positions = positions or family.default_positions
        if self.budget < 1:
            raise ValueError(f"budget must be at least 1 visual token, got {self.budget}")
        check_choice("budget_split", budget_split, BUDGET_SPLITS)
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
        compile: bool = False,
        cache_implementation: str | None = None,
        **family_options: Any,
    ) -> FlexSelect:
        """Load a VideoLLM; the family is found from its config.json.

        Args:
            path: local folder or hub id; or a family, where its numbers are set by hand.
            selector: None: dense; "self": training-free; "uniform", "random": controls; else a selector's folder or id.
            reference_layer: 0-based; None: the family's default for that size; training-free only.
            budget: see the class.
            units_per_set: see the class.
            reduction: "max" or "mean" over heads and query rows; None: as the selector was trained, else "max".
            budget_split: see the class.
            positions: see the class.
            selector_alignment: "exact" or "released", see `LiteScorer.shift`; None: what the selector says.
            dtype: of the weights: "bfloat16", "float16" or "float32".
            device: None: the first GPU if there is one, else the CPU.
            attn_implementation: for answering: "sdpa", "flash_attention_2", ...; scoring always uses SDPA.
            device_map: "auto" spreads a large model over all GPUs, then over memory and disk.
            offload_folder: for what goes to disk.
            quantization: "4bit" or "8bit" weights, where bitsandbytes is installed.
            scoring_only: load the decoder up to the reference layer only: `select` works, `ask` does not.
            compile: decoder layers by torch.compile: minutes at the first questions, faster afterwards.
            cache_implementation: for generation: None, as the model has it, or "static" (see transformers).
            family_options: numbers of the family, such as `fps` and `max_frames` (see `flexselect.families`).

        Raises:
            FileNotFoundError: no checkpoint at `path`.
            ValueError: a foreign checkpoint, weights that do not fit, or an option out of range.
        """
        if isinstance(path, VideoFamily) and family_options:
            raise ValueError(f"{', '.join(family_options)}: a family has its numbers; give them where it is built")
        family = path if isinstance(path, VideoFamily) else family_of(path, **family_options)
        check_options(family, selector, reference_layer, budget, units_per_set, reduction, dtype)
        layer = family.default_reference_layer if reference_layer is None else reference_layer
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if scoring_only and selector != "self":
            raise ValueError(f'scoring_only needs selector="self", got {selector!r}')
        lite = load_selector(selector, dtype, device)  # the smaller one first: what is wrong with it is known sooner
        depth = layer + 1 if scoring_only else None
        placed = getattr(torch, dtype), device, device_map, offload_folder, attn_implementation, quantization
        lm = family.load(LoadOptions(*placed, depth))
        lm.speed_up(compile, cache_implementation)
        scorer = make_scorer(selector, lm, lite, layer, reduction, units_per_set, selector_alignment)
        return cls(lm, family, scorer, budget, units_per_set, budget_split, positions)

    # -- a video from a file or from memory

    def open(
        self,
        video: str | Path | Tensor | np.ndarray,
        seconds: Tensor | Sequence[float] | None = None,
        keep: str = "features",
        keep_on: str | None = None,
        progress: bool | None = None,
        start: float | None = None,
        end: float | None = None,
        track: int | None = None,
        square_pixels: bool = True,
    ) -> VideoSession:
        """Do once what does not depend on the question: sample, decode, resize and encode.

        A file is decoded some frames at a time while the tower looks at those before: memory holds the features alone.

        Args:
            video: a video file; or frames uint8 [T, h, w, 3], taken as they are.
            seconds: when each frame is shown, float [T]; only with frames.
            keep: see `VideoSession.keeping`.
            keep_on: see there.
            progress: whether a bar is shown for a video that takes long; None: on a terminal.
            start: only what comes from this second on; of a file, as all that follow.
            end: only what comes before this second.
            track: among the file's video tracks, from 0; None: the one that players show.
            square_pixels: stretch pixels that are not square, as players do.

        Raises:
            ValueError: what the reader says of a file it cannot read, or frames of another form.
        """
        clock, reading = Clock(self.lm.device), ReadOptions(start, end, track, square_pixels)
        with clock("decode"):
            stream, where = source_of(video, seconds, reading, self.family.sample, self.lm.prompter.resize)
        session = VideoSession(self, stream, None, clock.timings, progress).keeping(keep, keep_on)
        session.video, session.options = where, reading
        if keep != "nothing":
            session.encode()
        return session

    def open_source(self, source: VideoClip | FrameStream, timings: dict[str, float] | None = None) -> VideoSession:
        """Take up a video whose frames come from elsewhere; it is encoded when that is needed.

        Args:
            source: a clip that was decoded, in a worker for one; or frames as they come.
            timings: seconds already spent on it, by stage.
        """
        return VideoSession(self, source, None, timings)

    def open_encoded(self, encoded: EncodedVideo, timings: dict[str, float] | None = None) -> VideoSession:
        """Take up a video that was encoded before, by this model; see `flexselect.storage.feature_cache`.

        Args:
            encoded: on any device.
            timings: seconds already spent on it, by stage.
        """
        return VideoSession(self, None, encoded.to(self.lm.device), timings)

    def load_session(self, file: str | Path, keep_on: str | None = None) -> VideoSession:
        """Take up what `VideoSession.save` wrote, with this model and selector; the video itself is not needed.

        Args:
            file: with keys and values too, they are taken up if the scorer is the same.
            keep_on: "cpu" leaves it all in the file, mapped into memory; None: features go to the model's device.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file that is broken, or of another model or sampling, naming what differs.
        """
        return load_session(self, Path(file), keep_on)

    def ask_all(self, asked: Sequence[tuple[VideoSession, str]], max_new_tokens: int = 64) -> list[Answer]:
        """Answer questions about several videos at once.

        Args:
            asked: pairs of a session and a question about its video.
            max_new_tokens: the most tokens of an answer.

        Returns:
            An answer a question, in their order: the same as from `VideoSession.ask`.
        """
        return answers(self, asked, max_new_tokens)

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
        return self.select_encoded(self.encode(prompt), [prompt.query_ids])[0]

    def next_token_logits(self, prompt: VideoPrompt, selection: Selection | None = None) -> Tensor:
        """Logits after the prompt, float32 [vocab]; dense without a selection."""
        inputs = self.lm.assemble(self.encode(prompt), prompt.query_ids, selection, self.positions)
        return self.lm.next_token_logits(inputs)

    def generate(self, prompt: VideoPrompt, selection: Selection | None = None, max_new_tokens: int = 64) -> Tensor:
        """Greedy answer, int64 [n], new tokens only; dense without a selection."""
        inputs = self.lm.assemble(self.encode(prompt), prompt.query_ids, selection, self.positions)
        return self.lm.generate(inputs, max_new_tokens, on_token=lambda: None)[0]

    # -- the method

    def encode(self, prompt: VideoPrompt) -> EncodedVideo:
        """Vision tower and projection; does not look at the question."""
        return encode(self.lm, prompt, self._selector_view)

    def encode_source(self, source: VideoClip | FrameStream, clock: Clock, progress: bool | None) -> EncodedVideo:
        """The same of a video alone, from where its frames come; see `encode_stream`."""
        if isinstance(source, FrameStream):
            return encode_stream(self.lm, source, clock, self._selector_view, progress)
        with clock("encode"):
            return self.encode(VideoPrompt(source, self.lm.prompter.prefix_ids, torch.empty(0, dtype=torch.long)))

    @property
    def _selector_view(self) -> VisionProjector | None:
        return self.scorer.selector.project if isinstance(self.scorer, LiteScorer) else None

    def select_encoded(
        self, encoded: EncodedVideo, queries: Sequence[Tensor], prepared: list[PreparedSets] | None = None
    ) -> list[Selection]:
        """Score for each of several questions, then keep the best of each frame set.

        Args:
            encoded: the video.
            queries: the text after it, int64 [Q] each.
            prepared: what the scorer's `prepare` made of the video; None: nothing.

        Raises:
            ValueError: without a scorer (dense).
        """
        if self.scorer is None:
            raise ValueError('nothing to select by: load with selector="self", "uniform" or "random"')
        if isinstance(self.scorer, AttentionScorer) and (prepared is not None or len(queries) > 1):
            parts = self.scorer.prepare(encoded) if prepared is None else prepared
            found = self.scorer.score_prepared(encoded, queries, parts)
        else:
            found = [self.scorer.score(encoded, query) for query in queries]
        return [self._best(encoded, scores) for scores in found]

    def _best(self, encoded: EncodedVideo, scores: Tensor) -> Selection:
        sets = frame_sets(encoded.num_units, encoded.tokens_per_unit, self.units_per_set)
        multiple = encoded.tokens_per_unit if self.family.released_budget_in_units else 1
        shares = share_budget(self.budget_split, self.budget, [len(tokens) for tokens in sets], multiple)
        shift = self.scorer.shift(encoded) if isinstance(self.scorer, LiteScorer) else 0
        return replace(select(scores, sets, shares), shift=shift)
