"""Several questions answered together: each video is scored for all of its own, and all answers are written at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flexselect.clock import Clock
from flexselect.families.batching import left_padded
from flexselect.prompt import Answer, Selection

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
        ValueError: for an empty question.
    """
    for _, question in asked:
        if not isinstance(question, str) or not question.strip():
            raise ValueError("the question is empty")
    ready: dict[int, _Ready] = {}
    for session in dict.fromkeys(session for session, _ in asked):
        its = [i for i, (about, _) in enumerate(asked) if about is session]
        ready |= zip(its, _chosen(fs, session, [asked[i][1] for i in its]))
    groups = _groups([ready[i] for i in range(len(asked))])
    return [answer for group in groups for answer in _written(fs, group, max_new_tokens)]


@dataclass(frozen=True)
class _Ready:
    """One question with its tokens chosen."""

    inputs: dict[str, Any]  # see `VideoLM.assemble`
    selection: Selection | None
    num_tokens: int  # V
    timings: dict[str, float]

    @property
    def length(self) -> int:
        """Of the prompt."""
        return self.inputs["input_ids"].shape[1]


def _chosen(fs: FlexSelect, session: VideoSession, questions: list[str]) -> Iterator[_Ready]:
    """Score a video for all its questions, and lay their prompts out."""
    shared = Clock(fs.lm.device)
    encoded = session.take(shared)
    queries = [fs.lm.prompter.query_ids(question) for question in questions]
    with shared("score"):
        chosen: Sequence[Selection | None] = [None] * len(queries)
        if fs.scorer is not None:
            chosen = fs.select_encoded(encoded, queries, session.prepared(encoded))
    spent = {**session.timings, **shared.timings, "score": shared.timings["score"] / len(queries)}
    for query, selection in zip(queries, chosen):
        clock = Clock(fs.lm.device, spent)
        with clock("prefill"):
            inputs = fs.lm.assemble(encoded, query, selection, fs.positions)
        yield _Ready(inputs, selection, encoded.num_tokens, clock.timings)


def _groups(ready: list[_Ready]) -> Iterator[list[_Ready]]:
    """As many as go together, in their order."""
    group: list[_Ready] = []
    for one in ready:
        longest = max(other.length for other in [*group, one])
        if group and longest * (len(group) + 1) > TOKENS_TOGETHER:
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _written(fs: FlexSelect, group: list[_Ready], max_new_tokens: int) -> Iterator[Answer]:
    """Generate for a group at once."""
    clock, end = Clock(fs.lm.device), fs.lm.prompter.end_of_turn
    clock.start("prefill")
    inputs = left_padded([one.inputs for one in group])
    new = fs.lm.generate(inputs, max_new_tokens, lambda: clock.start("generate"), end)
    clock.stop()
    for one, ids in zip(group, new):
        shares = {stage: seconds / len(group) for stage, seconds in clock.timings.items()}
        timings = {**one.timings, **shares, "prefill": one.timings["prefill"] + shares["prefill"]}
        kept = one.num_tokens if one.selection is None else len(one.selection.kept)
        yield Answer(fs.lm.prompter.decode(ids), one.selection, one.num_tokens, kept, timings)
