"""Answer questions after selection, several prompts per batch."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from torch import Tensor

from flexselect.attention.states import Past
from flexselect.engine.answer_engines import AnswerEngine, Generated, prompt_of
from flexselect.engine.batching import left_padded
from flexselect.engine.clock import Clock
from flexselect.engine.costs import cost_of_answering
from flexselect.engine.text_pieces import TextPieces
from flexselect.families.base import VideoLM
from flexselect.running.greedy import NewTokens, end_ids
from flexselect.structures.answer import Answer
from flexselect.structures.cost import Cost, add_costs
from flexselect.structures.prompt import EncodedVideo, Selection

TOKENS_TOGETHER = 32768  # the most prompt tokens per batch, padding included
IN_FLIGHT = 64  # prompts that an answer engine is given at a time


@dataclass(frozen=True)
class Request:
    """One question about a video, with the visual tokens to answer it from."""

    encoded: EncodedVideo
    query_ids: Tensor  # int64 [Q], the text after the video
    selection: Selection | None  # None: all visual tokens (dense)
    timings: dict[str, float]  # seconds spent so far, by stage
    cost: Cost | None = None  # so far, to which the answer's is added; None: unknown
    tokens: int = 0  # N, of the prompt; 0 until it is assembled


_Prompt = tuple[Request, dict[str, Any]]  # a request and the LLM's input, see `VideoLM.assemble`


def answers(
    lm: VideoLM,
    requests: Sequence[Request],
    positions: str,
    max_new_tokens: int,
    keep_past: bool = False,
    on_text: Callable[[str], None] | None = None,
) -> Iterator[tuple[Answer, Past | None]]:
    """Answer requests in order, see `Engine.answer`; with `keep_past`, also return what each prompt left behind.

    `on_text` is for a single request: it is called with each new piece of the answer's text.
    """
    for group in _batches(lm, requests, positions):
        yield from _generate(lm, group, max_new_tokens, keep_past, on_text)


def _batches(lm: VideoLM, requests: Sequence[Request], positions: str) -> Iterator[list[_Prompt]]:
    """Group prompts into batches, in order; only one batch of prompts is in memory at a time."""
    group: list[_Prompt] = []
    for request in requests:
        clock = Clock(lm.gpus, request.timings)
        with clock("prefill"):
            inputs = lm.assemble(request.encoded, request.query_ids, request.selection, positions)
        prompt = replace(request, timings=clock.timings, tokens=inputs["input_ids"].shape[1]), inputs
        longest = max(other["input_ids"].shape[1] for _, other in [*group, prompt])
        if group and longest * (len(group) + 1) > TOKENS_TOGETHER:
            yield group
            group = []
        group.append(prompt)
    if group:
        yield group


def answers_elsewhere(
    lm: VideoLM,
    engine: AnswerEngine,
    requests: Sequence[Request],
    positions: str,
    max_new_tokens: int,
    on_text: Callable[[str], None] | None = None,
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[tuple[Answer, None]]:
    """Answer requests in order with an answer engine, `IN_FLIGHT` of them at a time; else as `answers`.

    Each is waited for within a `waiting()`.
    """
    running: deque[tuple[Request, Future[Generated]]] = deque()
    pieces = None if on_text is None else TextPieces(lm.prompter.decode, on_text)
    unsent = iter(requests)
    try:
        while True:
            for request in islice(unsent, IN_FLIGHT - len(running)):
                clock = Clock(lm.gpus, request.timings)
                with clock("prefill"):
                    inputs = lm.assemble(request.encoded, request.query_ids, request.selection, positions)
                    prompt = prompt_of(lm, inputs, max_new_tokens)
                sent = replace(request, timings=clock.timings, tokens=len(prompt.ids))
                running.append((sent, engine.submit(prompt, _ignore if pieces is None else pieces.add)))
            if not running:
                return
            request, future = running.popleft()
            with waiting():
                generated = future.result()
            if pieces is not None:
                pieces.finish()
            timings = {**request.timings, "generate": generated.generate}
            timings["prefill"] += generated.prefill
            yield _answer(lm, request, generated.new, timings, max_new_tokens), None
    finally:
        for _, future in running:
            future.cancel()


def _ignore(token: int) -> None:
    """Do nothing with a token."""


def _generate(
    lm: VideoLM,
    group: list[_Prompt],
    max_new_tokens: int,
    keep_past: bool,
    on_text: Callable[[str], None] | None,
) -> Iterator[tuple[Answer, Past | None]]:
    """Generate the answers of one batch."""
    clock, end = Clock(lm.gpus), lm.prompter.end_of_turn
    pieces = None if on_text is None else TextPieces(lm.prompter.decode, on_text)

    def on_token(tokens: Tensor) -> None:
        clock.start("generate")
        if pieces is not None:
            pieces.add(int(tokens[0]))

    clock.start("prefill")
    inputs = left_padded([inputs for _, inputs in group])
    generated = lm.generate(inputs, max_new_tokens, on_token, end, keep_past)
    clock.stop()
    if pieces is not None:
        pieces.finish()
    for (request, _), new in zip(group, generated):
        shares = {stage: seconds / len(group) for stage, seconds in clock.timings.items()}
        timings = {**request.timings, **shares, "prefill": request.timings["prefill"] + shares["prefill"]}
        yield _answer(lm, request, new, timings, max_new_tokens), new.past


def _answer(lm: VideoLM, request: Request, new: NewTokens, timings: dict[str, float], max_new_tokens: int) -> Answer:
    """Make the answer of its tokens, with what is doubtful about it."""
    tokens = request.encoded.num_encoded
    kept = tokens if request.selection is None else len(request.selection.kept)
    text, warnings = lm.prompter.decode(new.ids), list[str]()
    if len(new.ids) == max_new_tokens and int(new.ids[-1]) not in end_ids(lm.model, lm.prompter.end_of_turn):
        warnings.append(f"the answer was cut off at max_new_tokens={max_new_tokens}")
    if not text:
        warnings.append("the answer is empty")
    likelihood = math.exp(new.log_likelihood / max(1, len(new.ids)))
    answering = cost_of_answering(lm.family, request.tokens, kept, len(new.ids))
    more: dict[str, Any] = {"warnings": tuple(warnings), "cost": add_costs([request.cost, answering])}
    return Answer(text, request.selection, tokens, kept, timings, new.ids, likelihood, **more)
