"""Budgets by mass beside a fixed K: how many of the demo's needles are found and named, from how many tokens.

    python -m bench.mass                                  (256-second videos, four frame sets; minutes on one core)
    python -m bench.mass --patches 1024 --videos 2 --positions compact     (16 frame sets)

`exact`, `mass`: the values of `budget_split`, with K tokens for each question. `proportional`: sets share K in
proportion to the sum of their mass; it was tried and is not in the library. `share`: `budget_mass`, with the model's K
as ceiling; below each, `exact` with as many tokens for all questions as it keeps in the mean.

The model answers one question at a time, so a question about two needles is measured in two ways: whether one token of
each is kept that shows it whole, and whether both questions are answered right from the tokens kept for the two.
p is McNemar's, of the answers: p_model against `exact` with the model's K, p_same against `exact` with the same number
of tokens.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

from transformers.utils.logging import disable_progress_bar

from bench.measure import write_result
from datamodules.needles import BY_SHAPE, ask_about_all, write_needle_videos
from flexselect import FlexSelect
from flexselect.engine.answering import Request
from flexselect.evaluation.questions import question_text, with_option
from flexselect.evaluation.statistics import mcnemar
from flexselect.scoring.frame_sets import split_budget
from flexselect.scoring.mass import masses_of, set_budgets
from flexselect.scoring.selection import select
from flexselect.session import VideoSession
from flexselect.storage.json_lines import read_json_lines
from flexselect.structures.answer import Answer
from flexselect.structures.prompt import Selection

MODEL = "checkpoints/demo/video_llm"
SCORERS = {"training-free": "self", "lite": "checkpoints/demo/selector"}
BUDGETS = (4, 8, 14, 28, 56, 112)  # the last one is the model's
NEW_TOKENS = 4
SHARES = (0.5, 0.8, 0.9, 0.95, 0.99)
COLUMNS = {  # of the printed table, and their widths
    **{"mode": 14, "rule": 17, "kept": 9, "kept_median": 13, "right": 7, "found": 7, "p_model": 9, "p_same": 8},
    **{"pairs_kept": 12, "pairs_found": 13, "pairs_right": 13, "pairs_p_model": 15, "pairs_p_same": 14},
    **{"absent_kept": 13},
}
Rule = Callable[[Selection], list[int]]  # the number of tokens to keep of each frame set


@dataclass(frozen=True)
class Scored:
    """The scores of a text, and the questions to answer from what is kept by them."""

    selection: Selection
    asked: tuple[dict, ...]  # rows of annotations: one, two, or none if the text asks for something that is absent


@dataclass(frozen=True)
class Outcome:
    """What a rule gave for a text."""

    kept: int  # tokens
    found: bool  # whether a token of each needle is kept that shows it whole
    right: bool  # whether all its questions are answered right


Outcomes = dict[int, list[Outcome]]  # by the number of needles that a text asks for


def fixed(budget: int, split: str) -> Rule:
    """Keep K tokens of each question."""
    return lambda scored: set_budgets(scored.scores, scored.sets, budget, 1, split, None)


def carrying(share: float) -> Rule:
    """Keep the fewest tokens that carry a share of the mass."""
    return lambda scored: set_budgets(scored.scores, scored.sets, BUDGETS[-1], 1, "exact", share)


def proportional(budget: int) -> Rule:
    """Share K in proportion to the sum of each set's mass."""

    def rule(scored: Selection) -> list[int]:
        masses = masses_of(scored.scores, scored.sets)
        sizes = [len(tokens) for tokens in scored.sets]
        return in_proportion(budget, [float(masses[tokens].sum()) for tokens in scored.sets], sizes)

    return rule


def in_proportion(budget: int, weights: list[float], sizes: list[int]) -> list[int]:
    """Share K in proportion to weights; a full set's rest goes to the others, and without weights sizes decide."""
    shares, left = [0] * len(sizes), min(budget, sum(sizes))
    while left:
        room = [size - share for size, share in zip(sizes, shares)]
        exact = [Fraction(weight) if free else Fraction(0) for weight, free in zip(weights, room)]
        if not sum(exact):
            return [share + more for share, more in zip(shares, split_budget(left, room))]
        wanted = [left * weight / sum(exact) for weight in exact]
        given = [min(int(want), free) for want, free in zip(wanted, room)]
        if not sum(given):
            given[max(range(len(sizes)), key=lambda s: wanted[s])] = 1
        shares = [share + more for share, more in zip(shares, given)]
        left -= sum(given)
    return shares


def score(session: VideoSession, rows: list[dict]) -> list[Scored]:
    """Score the questions about a video, those about each two of its needles, and those about absent shapes."""
    scored = [Scored(session.select(row["question"], row["options"] or ()), (row,)) for row in rows]
    by_shape = {row["needle"]["shape"]: row for row in rows}
    colour = {shape: _ask_colour(row) for shape, row in by_shape.items()}
    for first, second in combinations(by_shape, 2):
        both = f"{BY_SHAPE.format(first)} {BY_SHAPE.format(second)}"
        scored.append(Scored(session.select(both), (colour[first], colour[second])))
    shown = [row["needle"] for row in rows]
    asked = ask_about_all((needle["shape"] for needle in shown), (needle["colour"] for needle in shown))
    return scored + [Scored(session.select(question), ()) for question, there in asked if not there]


def _ask_colour(row: dict) -> dict:
    """Return the question, in words, for the colour of a row's needle."""
    needle = row["needle"]
    return {"question": BY_SHAPE.format(needle["shape"]), "options": None, "answer": needle["colour"], "needle": needle}


def token_of(needle: dict[str, Any], columns: int, per_unit: int) -> int:
    """Return the token that shows a needle in both frames of its unit: it is visible in three frames."""
    return (needle["start"] + 1) // 2 * per_unit + needle["row"] * columns + needle["column"]


def outcomes(session: VideoSession, scored: list[Scored], rule: Rule) -> Outcomes:
    """Answer the questions about a video from what a rule keeps."""
    encoded, engine = session.encode(), session.engine
    selections = [select(one.selection.scores, one.selection.sets, rule(one.selection)) for one in scored]
    requests, options = list[Request](), list[Sequence[str]]()
    for one, selection in zip(scored, selections):
        for row in one.asked:
            options.append(row["options"] or ())
            query = engine.lm.prompter.query_ids(question_text(row["question"], options[-1]))
            requests.append(Request(encoded, query, selection, {}))
    answers = iter(map(with_option, engine.answer(requests, NEW_TOKENS), options))
    result: Outcomes = {0: [], 1: [], 2: []}
    for one, selection in zip(scored, selections):
        kept = set(selection.kept.tolist())
        tokens = [token_of(row["needle"], encoded.grid[2], encoded.tokens_per_unit) for row in one.asked]
        right = [row["answer"] == said(next(answers)) for row in one.asked]
        result[len(one.asked)].append(Outcome(len(kept), kept.issuperset(tokens), all(right)))
    return result


def said(answer: Answer) -> str:
    """Return what an answer says: the letter of its option, or its text."""
    return answer.option.letter if answer.option else answer.text


def together(parts: Iterable[Outcomes]) -> Outcomes:
    """Join the outcomes of several videos."""
    parts = list(parts)
    return {count: [outcome for part in parts for outcome in part[count]] for count in (0, 1, 2)}


def summarise(given: Outcomes, other: dict[str, Outcomes]) -> dict[str, Any]:
    """Summarise outcomes, and compare their answers with those of other rules."""

    def mean(values: Iterable[float]) -> float:
        return round(statistics.mean(values), 3)

    def p(one: Outcomes, needles: int) -> float:
        first, second = ([outcome.right for outcome in each[needles]] for each in (given, one))
        return float(f"{mcnemar(first, second):.2g}")

    return {
        "kept": mean(outcome.kept for outcome in given[1]),
        "kept_median": statistics.median(outcome.kept for outcome in given[1]),
        "questions": len(given[1]),
        "right": sum(outcome.right for outcome in given[1]),
        "found": sum(outcome.found for outcome in given[1]),
        "pairs": len(given[2]),
        "pairs_kept": mean(outcome.kept for outcome in given[2]),
        "pairs_found": sum(outcome.found for outcome in given[2]),
        "pairs_right": sum(outcome.right for outcome in given[2]),
        "absent_kept": mean(outcome.kept for outcome in given[0]),
        **{f"p_{name}": p(outcomes, 1) for name, outcomes in other.items()},
        **{f"pairs_p_{name}": p(outcomes, 2) for name, outcomes in other.items()},
    }


def line(row: dict[str, Any]) -> str:
    """Write a row of the table; without a comparison there is none to write."""
    return "".join(f"{row.get(name, '-')!s:>{width}}" for name, width in COLUMNS.items())


def measure(mode: str, options: argparse.Namespace, folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Measure all rules with one scorer; print and return a row for each."""
    how = {"max_frames": 2 * options.patches, "positions": options.positions}  # every frame: a unit is a second
    fs = FlexSelect.from_pretrained(MODEL, selector=SCORERS[mode], dtype="float32", device="cpu", **how)
    videos = list[tuple[VideoSession, list[Scored]]]()
    for folder in folders:
        rows, _ = read_json_lines(folder / "annotations.jsonl")
        for name in sorted({row["video"] for row in rows}):
            session = fs.open(folder / name, keep="features", progress=False)
            videos.append((session, score(session, [row for row in rows if row["video"] == name])))

    def run(rule: Rule) -> Outcomes:
        return together(outcomes(session, scored, rule) for session, scored in videos)

    print("\n" + line({name: name for name in COLUMNS}), flush=True)
    whole, table = run(fixed(BUDGETS[-1], "exact")), list[dict[str, Any]]()

    def add(name: str, given: Outcomes, **other: Outcomes) -> None:
        table.append({"mode": mode, "patches": options.patches, "rule": name, **summarise(given, other)})
        print(line(table[-1]), flush=True)

    for budget in BUDGETS:
        exact = run(fixed(budget, "exact"))
        add(f"exact {budget}", exact, model=whole)
        add(f"mass {budget}", run(fixed(budget, "mass")), same=exact)
        add(f"proportional {budget}", run(proportional(budget)), same=exact)
    for share in SHARES:
        given = run(carrying(share))
        budget = round(statistics.mean(outcome.kept for outcome in given[1]))
        exact = run(fixed(budget, "exact"))
        add(f"share {share}", given, model=whole, same=exact)
        add(f"exact {budget}", exact, model=whole)
    return table


def main() -> None:
    """Print a row for each rule and scorer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--patches", type=int, default=256)
    parser.add_argument("--seeds", type=int, nargs="+", default=[71, 81, 91, 101])
    parser.add_argument("--positions", choices=["original", "compact"])
    options = parser.parse_args()
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place) / str(seed) for seed in options.seeds]
        for folder, seed in zip(folders, options.seeds):
            write_needle_videos(folder, options.videos, options.patches, seed=seed)
        rows = [row for mode in SCORERS for row in measure(mode, options, folders)]
    write_result("mass" if options.patches == 256 else f"mass_{options.patches}", vars(options), rows)


if __name__ == "__main__":
    main()
