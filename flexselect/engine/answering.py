"""Several questions answered together: each video is scored for all of its own, and all answers are written at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from flexselect.engine.batching import left_padded
from flexselect.engine.clock import Clock
from flexselect.structures.prompt import Answer, EncodedVideo, Selection
from flexselect.validation import checked_question

if TYPE_CHECKING:
    from flexselect.pipeline import FlexSelect
    from flexselect.session import VideoSession

TOKENS_TOGETHER = 32768  # of prompts that are answered at once, padding included


def answers(fs: FlexSelect, asked: Sequence[tuple[VideoSession, str]], max_new_tokens: int) -> list[Answer]:
    """Answer questions about one video or several.

    Args:
        fs: the model.
        asked: a session, and what is asked about its video.
        max_new_tokens: the most tokens of an answer.

    Returns:
        An answer a question. A stage that it shares with others counts for each in equal parts.

    Raises:
        ValueError: for an empty question, or a session of another model.
    """
    for session, question in asked:
        checked_question(question)
        if session.flexselect is not fs:
            raise ValueError("a question is about a session of another model: ask it with that model's `ask_all`")
    chosen: dict[int, _Chosen] = {}
    with ExitStack() as names:
        for session in dict.fromkeys(session for session, _ in asked):
            names.enter_context(session.naming_its_file())
            its = [i for i, (about, _) in enumerate(asked) if about is session]
            chosen |= zip(its, _choose(fs, session, [asked[i][1] for i in its]))
        groups = _groups(fs, [chosen[i] for i in range(len(asked))])
        return [answer for group in groups for answer in _written(fs, group, max_new_tokens)]


@dataclass(frozen=True)
class _Chosen:
    """One question with its visual tokens."""

    encoded: EncodedVideo
    query_ids: Tensor
    selection: Selection | None
    timings: dict[str, float]


_Prompt = tuple[_Chosen, dict[str, Any]]  # with the LLM's input, see `VideoLM.assemble`


def _choose(fs: FlexSelect, session: VideoSession, questions: list[str]) -> Iterator[_Chosen]:
    """Score a video for all its questions."""
    clock = Clock(fs.lm.device)
    encoded = session.encode()
    queries = [fs.lm.prompter.query_ids(question) for question in questions]
    with clock("score"):
        found: Sequence[Selection | None] = [None] * len(queries)
        if fs.scorer is not None:
            found = fs.select_encoded(encoded, queries, session.prepared(encoded))
    spent = {**session.timings, **clock.timings, "score": clock.timings["score"] / len(queries)}
    for query_ids, selection in zip(queries, found):
        yield _Chosen(encoded, query_ids, selection, spent)


def _groups(fs: FlexSelect, chosen: list[_Chosen]) -> Iterator[list[_Prompt]]:
    """Prompts that are answered together, in their order; no more than these are ever laid out."""
    group: list[_Prompt] = []
    for one in chosen:
        clock = Clock(fs.lm.device, one.timings)
        with clock("prefill"):
            inputs = fs.lm.assemble(one.encoded, one.query_ids, one.selection, fs.positions)
        prompt = replace(one, timings=clock.timings), inputs
        longest = max(each["input_ids"].shape[1] for _, each in [*group, prompt])
        if group and longest * (len(group) + 1) > TOKENS_TOGETHER:
            yield group
            group = []
        group.append(prompt)
    if group:
        yield group


def _written(fs: FlexSelect, group: list[_Prompt], max_new_tokens: int) -> Iterator[Answer]:
    """Generate for a group at once."""
    clock, end = Clock(fs.lm.device), fs.lm.prompter.end_of_turn
    clock.start("prefill")
    inputs = left_padded([inputs for _, inputs in group])
    new = fs.lm.generate(inputs, max_new_tokens, lambda: clock.start("generate"), end)
    clock.stop()
    for (one, _), ids in zip(group, new):
        shares = {stage: seconds / len(group) for stage, seconds in clock.timings.items()}
        timings = {**one.timings, **shares, "prefill": one.timings["prefill"] + shares["prefill"]}
        tokens = one.encoded.num_tokens
        kept = tokens if one.selection is None else len(one.selection.kept)
        yield Answer(fs.lm.prompter.decode(ids), one.selection, tokens, kept, timings)
