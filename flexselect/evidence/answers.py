"""Answer questions with the moments that the answers come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from flexselect.engine.answering import Request
from flexselect.engine.clock import Clock
from flexselect.engine.engine import Engine
from flexselect.evidence.moments import find_moments, presence, prominence
from flexselect.evidence.verification import verify
from flexselect.structures.answer import Answer


def answer_with_moments(
    engine: Engine,
    requests: Sequence[Request],
    max_new_tokens: int,
    prove: bool = False,
    on_text: Callable[[str], None] | None = None,
) -> list[Answer]:
    """Answer requests in order, with their moments.

    Args:
        engine: the model.
        requests: the questions.
        max_new_tokens: the maximum length of an answer, in tokens.
        prove: order the moments by what the answer is worth from each alone, and ask again without them; the seconds
            are under `verify` in the timings.
        on_text: called with each new piece of an answer's text; for one request only.

    Raises:
        ValueError: if `prove` is set and no scorer ranks content (dense, uniform, random).
    """
    if prove and not engine.ranks_content:
        raise ValueError('verify needs scores that point to moments: load with selector="self", or a trained selector')
    answered = engine.answers(requests, max_new_tokens, prove, on_text)
    if not engine.ranks_content:
        return [answer for answer, _ in answered]
    results = []
    for request, (answer, past) in zip(requests, answered):
        assert request.selection is not None and answer.likelihood is not None
        distance, excess = prominence(request.selection, request.encoded.num_units)
        if not prove:
            moments = tuple(find_moments(distance, excess, request.encoded))
            results.append(replace(answer, moments=moments, presence=presence(answer.likelihood, excess)))
            continue
        clock = Clock(engine.gpus, answer.timings)
        with clock("verify"):
            proven = verify(engine, request, answer, past, distance, excess)
        proof, worth = proven.verification, proven.moments[0].alone
        assert proof is not None and worth is not None
        alone = proof.background + worth * (proof.likelihood - proof.background)
        results.append(replace(proven, presence=presence(answer.likelihood, excess, alone), timings=clock.timings))
    return results
