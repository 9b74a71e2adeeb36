"""Prove the moments of an answer: what it is worth from each of them alone, and what becomes of it without them.

The scores of other things that a question could mean stand out of the background too: a shape of the same colour, a
person in the same coat. Which of them the answer comes from is told by its likelihood from a few tokens of each.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from flexselect.attention.states import Past, first_tokens
from flexselect.engine.answering import Request
from flexselect.engine.batching import left_padded
from flexselect.engine.engine import Engine
from flexselect.evidence.moments import MOST, moment_of, prominent_runs, unit_edges
from flexselect.running.merging import after, kept_inputs, whole_prompt
from flexselect.structures.answer import Answer, Moment, Verification
from flexselect.structures.prompt import Selection

CANDIDATES, FROM = 8, 2.0  # the most parts that are tried; standard deviations from which a part is one
TOKENS, UNITS = 64, 8  # the most tokens of a part, and the most units that they are from, since units have delimiters
SHARE, FEWEST = 4, 8  # a part has at most this part of the budget, but so many tokens
TOGETHER = 64  # tokens by which two prompts may differ that are one batch: a call costs as much as some tokens
TIE, LOSS = 0.1, 0.5  # nats: likelihoods that count as equal, and as clearly lower
SCORES, SCORES_SHARE = 0.2, 0.25  # nats for scores that stand out e times as far, and the share of the gain at most
QUIET = 2  # units that no score points to
CITED = 0.5  # of the answer's likelihood by itself, from which a further moment is cited


@dataclass(frozen=True)
class Part:
    """Units [first, stop) of a video, and the log-likelihood of the answer from their tokens alone."""

    first: int
    stop: int
    value: float


class Trial:
    """The likelihood of one answer from any tokens of its video.

    Args:
        engine: the model.
        request: the question.
        answer_ids: the answer's tokens, int64 [n].
        past: keys and values of the question's prompt; None: they were not kept, and all is computed again.
    """

    def __init__(self, engine: Engine, request: Request, answer_ids: Tensor, past: Past | None) -> None:
        self.engine, self.request, self.answer_ids, self.past = engine, request, answer_ids, past
        assert request.selection is not None
        self.selection: Selection = request.selection
        self.per_unit = request.encoded.tokens_per_unit
        self.scores = torch.roll(self.selection.scores.cpu(), -self.selection.shift)
        text = torch.cat([request.query_ids.cpu(), answer_ids])
        self.whole = whole_prompt(engine.lm, request.encoded, text)
        self.worth: dict[tuple[int, int], float] = {}  # of the parts that were tried

    def log_likelihoods(self, kept: Sequence[Tensor]) -> tuple[list[float], list[bool]]:
        """Compute the log-likelihood of the answer from each set of visual tokens, int64 [*], in one batch.

        Also return whether the model would answer something else: one of the answer's tokens is not the likeliest.
        """
        return self._go_on(len(self.request.encoded.prefix_ids), kept)

    def without(self, left_out: Sequence[Tensor]) -> list[tuple[float, bool]]:
        """Compute the same without some of the kept tokens, each time others: bool [K], true for those left out.

        What comes before the first of them is as it was for the answer, and is not computed again.
        """
        kept, layout = self.selection.kept.cpu(), self.whole[0].before_query
        whole = layout.kept_mask(kept, self.selection.shift)
        rests = [kept[~dropped] for dropped in left_out]
        known = []
        for rest in rests:
            different = (whole != layout.kept_mask(rest, self.selection.shift)).nonzero().flatten().tolist()
            known.append(int(whole[: different[0] if different else None].sum()))
        if max(known) - min(known) <= TOGETHER:
            return list(zip(*self._go_on(min(known), rests)))
        one_by_one = [self._go_on(length, [rest]) for length, rest in zip(known, rests)]
        return [(value, changed) for (value,), (changed,) in one_by_one]

    @torch.inference_mode()
    def _go_on(self, known: int, kept: Sequence[Tensor]) -> tuple[list[float], list[bool]]:
        """Compare the answer with the logits from visual tokens that the first `known` places do not differ in."""
        past = None if self.past is None else first_tokens(self.past, known)
        inputs = left_padded([after(0 if past is None else known, self._prompt(tokens)) for tokens in kept])
        return self._compared(self.engine.lm.last_logits(inputs, len(self.answer_ids) + 1, past))

    def _prompt(self, kept: Tensor) -> dict[str, Any]:
        """Make the LLM's input: the kept tokens, the question, the answer."""
        lm, selection = self.engine.lm, replace(self.selection, kept=kept)
        return kept_inputs(lm, self.request.encoded, self.whole, selection, self.engine.positions)

    def _compared(self, logits: Tensor) -> tuple[list[float], list[bool]]:
        """Compare logits of the answer's places and of the one after, [B, n + 1, vocab], with the answer."""
        logits = logits[:, :-1]
        expected = self.answer_ids.to(logits.device).expand(len(logits), -1)  # [B, n]
        likely = logits.log_softmax(-1).gather(-1, expected[..., None]).sum((1, 2))
        return likely.tolist(), (logits.argmax(-1) != expected).any(1).tolist()

    def tokens(self, first: int, stop: int) -> Tensor:
        """Return the best tokens of the best of units [first, stop), ascending: int64 [*], as `Selection.kept`."""
        tokens = torch.arange(len(self.scores)).view(-1, self.per_unit)[first:stop]
        scores = self.scores[tokens].masked_fill(~self.request.encoded.holds(tokens), -torch.inf)
        units = scores.amax(1).sort(descending=True, stable=True).indices[:UNITS]
        tokens, scores = tokens[units].flatten(), scores[units].flatten()
        most = min(TOKENS, max(FEWEST, len(self.selection.kept) // SHARE))
        best = scores.sort(descending=True, stable=True).indices[: min(most, int((scores > -torch.inf).sum()))]
        shifted = tokens[best].sort().values + self.selection.shift
        return shifted[shifted < len(self.scores)]

    def try_parts(self, parts: Sequence[tuple[int, int]]) -> list[Part]:
        """Compute the likelihood from each part alone, in one batch, if it is not known."""
        new = [part for part in parts if part not in self.worth]
        if new:
            values, _ = self.log_likelihoods([self.tokens(*part) for part in new])
            self.worth |= dict(zip(new, values))
        return [Part(*part, self.worth[part]) for part in parts]

    def narrowed(self, part: Part) -> Part:
        """Halve a part for as long as one half is worth as much as the whole, and the other clearly less.

        Two things that follow one another are one run of high scores.
        """
        while part.stop - part.first > 1:
            better, worse = sorted(self.try_parts(halves(part.first, part.stop)), key=lambda half: -half.value)
            if better.value < part.value - TIE or worse.value > part.value - LOSS:
                return part
            part = better
        return part

    def probability(self, value: float) -> float:
        """Return the geometric mean per token of a log-likelihood."""
        return math.exp(value / len(self.answer_ids))

    def log_likelihood(self, probability: float) -> float:
        """Return the log-likelihood that has this `probability`."""
        return math.log(max(probability, 1e-12)) * len(self.answer_ids)


def halves(first: int, stop: int) -> list[tuple[int, int]]:
    """Return the halves of units [first, stop); none of a single unit."""
    middle = (first + stop) // 2
    return [(first, middle), (middle, stop)] if stop - first > 1 else []


def verify(
    engine: Engine, request: Request, answer: Answer, past: Past | None, distance: Tensor, excess: Tensor
) -> Answer:
    """Order an answer's moments by what it is worth from each alone, and ask again without the cited ones.

    Args:
        engine: the model, with a scorer that ranks content.
        request: the question, with its selection.
        answer: the answer to it.
        past: see `Trial`.
        distance: how far units stand out, float64 [U], see `prominence`.
        excess: the factor above the background, float64 [U], see `prominence`.

    Returns:
        The answer with its proven moments first, and with `verification`.
    """
    assert answer.ids is not None
    trial, highest = Trial(engine, request, answer.ids, past), int(distance.argmax())
    runs = prominent_runs(distance, FROM)[:CANDIDATES] or [(highest, highest + 1)]
    quiet = [(unit, unit + 1) for unit in distance.abs().sort(stable=True).indices[:QUIET].tolist()]
    trial.try_parts(list(dict.fromkeys([*quiet, *runs, *halves(*runs[0])])))  # likely the ones that are asked for
    floor = statistics.mean(trial.probability(part.value) for part in trial.try_parts(quiet))
    parts, whole = trial.try_parts(runs), answer.likelihood or 1.0
    best = trial.narrowed(_first(parts, distance, trial.log_likelihood(floor)))

    def alone(part: Part) -> float:
        gained = trial.probability(part.value) - floor
        return min(1.0, max(0.0, gained / max(whole - floor, 1e-6)))

    others = [part for part in parts if part.stop <= best.first or part.first >= best.stop]
    others.sort(key=lambda part: (-round(alone(part), 2), -_prominence_of(part, distance)))
    edges = unit_edges(request.encoded)
    moments = [
        moment_of((part.first, part.stop), distance, excess, edges, alone(part)) for part in (best, *others)[:MOST]
    ]
    cited = 1 + sum((moment.alone or 0.0) >= CITED for moment in moments[1:])  # they are in this order
    return replace(answer, moments=tuple(moments), verification=_without(trial, moments[:cited], whole, floor))


def _prominence_of(part: Part, distance: Tensor) -> float:
    """Return how far the best unit of a part stands out, see `prominence`."""
    return float(distance[part.first : part.stop].max())


def _first(parts: Sequence[Part], distance: Tensor, floor: float) -> Part:
    """Return the part that is worth most: likelihood first, high scores where likelihoods are close.

    A model that is almost sure without any evidence gains little from it, and then scores count for little too.
    """
    gained = max(0.0, max(part.value for part in parts) - floor)
    weight = min(SCORES, SCORES_SHARE * gained)
    return max(parts, key=lambda part: part.value + weight * math.log(max(1.0, _prominence_of(part, distance))))


def _without(trial: Trial, cited: Sequence[Moment], whole: float, floor: float) -> Verification:
    """Ask again without the cited moments' tokens, and without as many consecutive tokens elsewhere.

    The latter begin at random in the second half of the others: what comes before need not be computed again.
    """
    kept = trial.selection.kept.cpu()
    unit = (kept - trial.selection.shift).clamp_min(0) // trial.per_unit
    dropped = torch.zeros(len(kept), dtype=torch.bool)
    for moment in cited:
        dropped |= (unit >= moment.units[0]) & (unit < moment.units[1])
    rest, count = (~dropped).nonzero().flatten(), int(dropped.sum())
    left_out, room = [dropped], len(rest) - count
    if room >= 0:
        low = min(len(rest) // 2, room)
        first = int(torch.randint(low, room + 1, (), generator=torch.Generator().manual_seed(0)))
        others = torch.zeros(len(kept), dtype=torch.bool)
        others[rest[first : first + count]] = True
        left_out.append(others)
    (value, changed), *other = trial.without(left_out)
    proof = Verification(len(cited), changed, None, whole, trial.probability(value), None, floor)
    for value, changed in other:
        proof = replace(proof, changed_without_others=changed, likelihood_without_others=trial.probability(value))
    return proof
