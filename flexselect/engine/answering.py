"""Questions whose tokens are chosen, answered together: prompts are laid out and generated for in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from flexselect.engine.batching import left_padded
from flexselect.engine.clock import Clock
from flexselect.families.base import VideoLM
from flexselect.structures.prompt import Answer, EncodedVideo, Selection

TOKENS_TOGETHER = 32768  # of prompts that are answered at once, padding included


@dataclass(frozen=True)
class Request:
    """One question about a video, with the visual tokens that it is to be answered from."""

    encoded: EncodedVideo
    query_ids: Tensor  # int64 [Q], the text after the video
    selection: Selection | None  # None: dense
    timings: dict[str, float]  # seconds spent so far, by stage


_Prompt = tuple[Request, dict[str, Any]]  # with the LLM's input, see `VideoLM.assemble`


def answers(lm: VideoLM, requests: Sequence[Request], positions: str, max_new_tokens: int) -> Iterator[Answer]:
    """Answer requests, in their order; see `Engine.answer`."""
    for group in _groups(lm, requests, positions):
        yield from _written(lm, group, max_new_tokens)


def _groups(lm: VideoLM, requests: Sequence[Request], positions: str) -> Iterator[list[_Prompt]]:
    """Prompts that are answered together, in their order; no more than these are ever laid out."""
    group: list[_Prompt] = []
    for request in requests:
        clock = Clock(lm.device, request.timings)
        with clock("prefill"):
            inputs = lm.assemble(request.encoded, request.query_ids, request.selection, positions)
        prompt = replace(request, timings=clock.timings), inputs
        longest = max(each["input_ids"].shape[1] for _, each in [*group, prompt])
        if group and longest * (len(group) + 1) > TOKENS_TOGETHER:
            yield group
            group = []
        group.append(prompt)
    if group:
        yield group


def _written(lm: VideoLM, group: list[_Prompt], max_new_tokens: int) -> Iterator[Answer]:
    """Generate for a group at once."""
    clock, end = Clock(lm.device), lm.prompter.end_of_turn
    clock.start("prefill")
    inputs = left_padded([inputs for _, inputs in group])
    new = lm.generate(inputs, max_new_tokens, lambda: clock.start("generate"), end)
    clock.stop()
    for (request, _), ids in zip(group, new):
        shares = {stage: seconds / len(group) for stage, seconds in clock.timings.items()}
        timings = {**request.timings, **shares, "prefill": request.timings["prefill"] + shares["prefill"]}
        tokens = request.encoded.num_tokens
        kept = tokens if request.selection is None else len(request.selection.kept)
        yield Answer(lm.prompter.decode(ids), request.selection, tokens, kept, timings)
