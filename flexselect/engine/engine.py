"""One loaded model: encode a video, select its visual tokens for a question, answer.

This is the method of the paper from top to bottom. Files and sessions are in `flexselect.pipeline`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from itertools import repeat
from typing import Any, TypeVar

import torch
from torch import Tensor

from flexselect.attention.states import Past
from flexselect.engine.answer_engines import AnswerEngine
from flexselect.engine.answering import Request, answers, answers_elsewhere
from flexselect.engine.clock import Clock
from flexselect.engine.costs import cost_of_selecting
from flexselect.engine.encoding import encode, encode_stream
from flexselect.families.base import VideoFamily, VideoLM, VisionProjector
from flexselect.loading.fingerprint import weights_hash
from flexselect.options import Options, check_names
from flexselect.scoring.factory import MODES
from flexselect.scoring.frame_sets import frame_sets
from flexselect.scoring.mass import by_mass, set_budgets
from flexselect.scoring.prefix_cache import PrefixCache
from flexselect.scoring.scorer import Scorer
from flexselect.scoring.selection import select
from flexselect.structures.answer import Answer
from flexselect.structures.frames import FrameStream
from flexselect.structures.prompt import EncodedVideo, Selection, VideoClip, VideoPrompt
from flexselect.validation import check_at_least, check_verify

Self = TypeVar("Self", bound="Engine")


class Engine:
    """A VideoLLM that is shown only the visual tokens a question needs (FlexSelect, arXiv 2506.00993).

    Args:
        lm: the loaded VideoLLM.
        family: the family of `lm`.
        scorer: ranks the visual tokens; None: all tokens are kept (dense).
        options: see `flexselect.options.Options`; loading options have no effect here, since `lm` is loaded.
    """

    def __init__(self, lm: VideoLM, family: VideoFamily, scorer: Scorer | None = None, **options: Any) -> None:
        self.lm, self.family, self.scorer = lm, family, scorer
        self.answer_engine: AnswerEngine | None = None  # None: `lm` answers itself
        self.waiting: Callable[[], AbstractContextManager[None]] = nullcontext  # what is done while it is waited for
        check_names(Options, options, type(self).__name__)
        self.options = Options(**options)

    def with_scorer(self: Self, scorer: Scorer | None) -> Self:
        """Return an engine with the same weights and options, and another scorer."""
        other = type(self)(self.lm, self.family, scorer, **asdict(self.options))
        other.answer_engine = self.answer_engine
        return other

    def close(self) -> None:
        """End the answer engine, if there is one: it runs in a process of its own, and holds memory."""
        if self.answer_engine is not None:
            self.answer_engine.close()

    @property
    def budget(self) -> int:
        """K, the number of visual tokens that are kept."""
        return self.family.default_budget if self.options.budget is None else self.options.budget

    @property
    def positions(self) -> str:
        """How kept tokens are positioned: "original" or "compact"."""
        return self.options.positions or self.family.default_positions

    @property
    def ranks_content(self) -> bool:
        """Whether tokens are kept for what they show: not if all are kept, and not by the controls."""
        return self.scorer is not None and self.scorer.ranks_content

    @property
    def gpus(self) -> set[torch.device]:
        """All GPUs that hold weights of the VideoLLM or the selector."""
        return self.lm.gpus | (set() if self.scorer is None else self.scorer.gpus)

    @property
    def provenance(self) -> dict[str, Any]:
        """The provenance of an encoded video: weights, family numbers and, for its prefix cache, the scorer."""
        scored = None if self.scorer is None else self.scorer.provenance
        if scored is not None:
            scored = {**scored, "units_per_set": self.options.units_per_set}
        model = {"weights": weights_hash(self.family.path), "dtype": str(self.lm.model.dtype), "scored": scored}
        return {**model, "selector": (scored or {}).get("selector"), **self.family.identity}

    # -- prompts from the model's input tensors

    def prompt_from_tensors(self, **tensors: Tensor) -> VideoPrompt:
        """Make a prompt from the model's input tensors; the family's `prompt_from_tensors` lists their names.

        If the selector has a separate tokenizer, also pass `selector_input_ids`, the whole prompt in its ids.
        """
        selector_ids = tensors.pop("selector_input_ids", None)
        prompt = self.lm.prompt_from_tensors(**tensors)
        if selector_ids is None:
            return prompt
        if self.scorer is None:
            raise ValueError("selector_input_ids are for a trained selector: load with selector=DIR")
        return replace(prompt, selector_text=self.scorer.split(selector_ids))

    def select(self, prompt: VideoPrompt) -> Selection:
        """Score the visual tokens of a prompt and keep the best K."""
        return self.select_encoded(self.encode(prompt), [prompt.query_ids])[0]

    def next_token_logits(self, prompt: VideoPrompt, selection: Selection | None = None) -> Tensor:
        """Return the logits after the prompt, float32 [vocab]; without a selection, all tokens are kept (dense)."""
        inputs = self.lm.assemble(self.encode(prompt), prompt.query_ids, selection, self.positions)
        return self.lm.next_token_logits(inputs)

    def generate(self, prompt: VideoPrompt, selection: Selection | None = None, max_new_tokens: int = 64) -> Tensor:
        """Return the greedy answer, int64 [n], new tokens only; without a selection, all tokens are kept (dense)."""
        inputs = self.lm.assemble(self.encode(prompt), prompt.query_ids, selection, self.positions)
        return self.lm.generate(inputs, max_new_tokens, on_token=lambda _: None)[0].ids

    # -- the method

    def encode(self, prompt: VideoPrompt) -> EncodedVideo:
        """Run the vision tower and the projection; the result does not depend on the question."""
        return encode(self.lm, prompt, self._projection)

    def encode_source(self, source: VideoClip | FrameStream, clock: Clock, progress: bool | None) -> EncodedVideo:
        """Encode a video without a question, from a decoded clip or a stream of frames; see `encode_stream`."""
        if isinstance(source, FrameStream):
            return encode_stream(self.lm, source, clock, self._projection, progress)
        with clock("encode"):
            return self.encode(VideoPrompt(source, self.lm.prompter.prefix_ids, torch.empty(0, dtype=torch.long)))

    @property
    def _projection(self) -> VisionProjector | None:
        return None if self.scorer is None else self.scorer.projection

    def frame_sets(self, encoded: EncodedVideo) -> list[Tensor]:
        """Return the visual tokens of each frame set, which are scored together (section 3.2): S tensors int64 [*]."""
        return frame_sets(encoded.num_units, encoded.tokens_per_unit, self.options.units_per_set)

    def prepare(self, encoded: EncodedVideo) -> Iterator[PrefixCache]:
        """Compute the part of scoring that does not depend on the question, a few frame sets at a time.

        Yields nothing if there is no scorer, or if the scorer caches nothing.
        """
        return iter(()) if self.scorer is None else self.scorer.prepare(encoded, self.frame_sets(encoded))

    def prefix_cache_bytes(self, encoded: EncodedVideo) -> int:
        """Return the bytes of all that `prepare` yields."""
        return 0 if self.scorer is None else self.scorer.prefix_cache_bytes(encoded, self.frame_sets(encoded))

    def prefix_cache_layouts(self, encoded: EncodedVideo) -> Iterator[PrefixCache]:
        """Yield the prefix caches of `prepare` without keys and values, to be filled with stored ones."""
        return iter(()) if self.scorer is None else self.scorer.prefix_cache_layouts(encoded, self.frame_sets(encoded))

    def select_encoded(
        self,
        encoded: EncodedVideo,
        queries: Sequence[Tensor],
        prefix_cache: Iterable[PrefixCache] | None = None,
        budget: int | None = None,
    ) -> list[Selection]:
        """Score the visual tokens for each question, then keep the best of each frame set.

        Args:
            encoded: the video.
            queries: for each question the text after the video, int64 [Q].
            prefix_cache: the output of `prepare` for this video; None: it is computed.
            budget: K for these questions; None: `self.budget`.

        Raises:
            ValueError: without a scorer (dense), for a budget below 1, or if a control is to share a budget by scores.
        """
        if self.scorer is None:
            raise ValueError(f"no selector is loaded: load with selector= one of {', '.join(MODES)}, or a trained one")
        sets = self.frame_sets(encoded)
        multiple = encoded.tokens_per_unit if self.family.released_budget_in_units else 1
        budget = self.budget if budget is None else budget
        check_at_least("budget", budget, 1, " visual token")
        if not self.ranks_content and by_mass(self.options):
            raise ValueError(f"{by_mass(self.options)} needs scores that point to moments, not those of a control")
        rule = multiple, self.options.budget_split, self.options.budget_mass
        shift = self.scorer.shift(encoded)
        scores_by_query = self.scorer.score_many(encoded, queries, sets, prefix_cache)
        budgets = [set_budgets(scores, sets, budget, *rule) for scores in scores_by_query]
        return [replace(select(*each), shift=shift) for each in zip(scores_by_query, repeat(sets), budgets)]

    def requests(
        self,
        encoded: EncodedVideo,
        questions: Sequence[str],
        prefix_cache: Callable[[], Iterable[PrefixCache] | None] = lambda: None,
        timings: dict[str, float] | None = None,
        budget: int | None = None,
        history: Sequence[tuple[str, str]] = (),
    ) -> list[Request]:
        """Score a video for several questions; pass the requests to `answer`.

        Args:
            encoded: the video.
            questions: texts.
            prefix_cache: returns what `select_encoded` takes; its seconds count as scoring.
            timings: seconds spent on the video so far, by stage.
            budget: see `select_encoded`.
            history: see `Prompter.query_ids`; the same for all questions.
        """
        if not questions:
            return []
        clock = Clock(self.gpus)
        queries = [self.lm.prompter.query_ids(question, history) for question in questions]
        with clock("score"):
            selections: Sequence[Selection | None] = [None] * len(queries)
            if self.scorer is not None:
                selections = self.select_encoded(encoded, queries, prefix_cache(), budget)
        seconds = {**(timings or {}), "score": clock.timings["score"] / len(queries)}
        return [
            Request(encoded, *pair, seconds, cost_of_selecting(self.family, self.scorer, encoded, *pair))
            for pair in zip(queries, selections)
        ]

    def answer(self, requests: Sequence[Request], max_new_tokens: int = 64) -> list[Answer]:
        """Answer questions about one or more videos, in batches.

        Returns:
            One answer per request, in order. The time of a shared batch is divided equally among its answers.
        """
        return [answer for answer, _ in self.answers(requests, max_new_tokens)]

    def answers(
        self,
        requests: Sequence[Request],
        max_new_tokens: int,
        keep_past: bool = False,
        on_text: Callable[[str], None] | None = None,
    ) -> Iterator[tuple[Answer, Past | None]]:
        """Answer requests in order, see `flexselect.engine.answering`; with an answer engine many at a time.

        Raises:
            ValueError: for `keep_past` with an answer engine, which keeps what a prompt leaves behind to itself.
        """
        if self.answer_engine is None:
            return answers(self.lm, requests, self.positions, max_new_tokens, keep_past, on_text)
        check_verify(keep_past, self.options.engine)
        sent = requests, self.positions, max_new_tokens
        return answers_elsewhere(self.lm, self.answer_engine, *sent, on_text, self.waiting)
