"""Intervals and paired tests against values known otherwise."""

import math
import re

import numpy as np
import pytest

from flexselect.evaluation.results import frequent_warnings, summarise, table
from flexselect.evaluation.statistics import accuracy, interval, mcnemar


def test_accuracy_over_questions_or_groups():
    groups = {"a": [True] * 3, "b": [True] * 6 + [False] * 3, "none": []}
    assert accuracy(groups) == pytest.approx(9 / 12)
    assert accuracy(groups, macro=True) == pytest.approx((1 + 2 / 3) / 2)
    assert math.isnan(accuracy({}))


def test_interval_of_independent_questions():
    """One question a video: the normal approximation, 1.96 sqrt(p (1 - p) / n)."""
    rng = np.random.default_rng(0)
    right = rng.random(1000) < 0.7
    low, high = interval(right, [str(i) for i in range(1000)])
    half = 1.96 * math.sqrt(right.mean() * (1 - right.mean()) / 1000)
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)
    assert low < right.mean() < high


def test_questions_that_fail_together_say_less():
    """Five questions a video with one fate: as wide as a fifth of the questions would be."""
    rng = np.random.default_rng(0)
    fates = rng.random(200) < 0.7
    right, videos = np.repeat(fates, 5), np.repeat(np.arange(200).astype(str), 5)
    low, high = interval(right, videos)
    alone = interval(right, np.arange(1000).astype(str))
    assert (high - low) / (alone[1] - alone[0]) == pytest.approx(math.sqrt(5), rel=0.15)


def test_intervals_of_a_mean_of_groups():
    groups = ["a"] * 100 + ["b"] * 900
    right = [True] * 50 + [False] * 50 + [True] * 900
    low, high = interval(right, [str(i) for i in range(1000)], groups)
    assert low < 0.75 < high
    assert interval([], []) == pytest.approx((math.nan, math.nan), nan_ok=True)


@pytest.mark.parametrize(("b", "c", "p"), [(0, 0, 1.0), (5, 5, 1.0), (0, 10, 2 / 1024), (1, 9, 22 / 1024)])
def test_mcnemar_is_the_binomial_test(b, c, p):
    one = [True] * b + [False] * c + [True] * 7
    other = [False] * b + [True] * c + [True] * 7
    assert mcnemar(one, other) == pytest.approx(p) == mcnemar(other, one)
    with pytest.raises(ValueError, match="same questions"):
        mcnemar(one, other[1:])


def row(correct, kind="a", **more):
    arguments = {"correct": correct, "video": "v", "parsed": "A", "groups": {"kind": kind}, "error": None}
    return {**arguments, "multiple_choice": True, **more}


def test_results_of_predictions():
    rows = [row(True), row(False, parsed=None), row(False, "b", error="broken", parsed=None), row(None)]
    results = summarise(rows, macro="kind")
    assert results["accuracy"] == pytest.approx(0.25) and results["micro_accuracy"] == pytest.approx(1 / 3)
    assert results["questions"] == 4 and results["errors"] == 1 and results["unparsed"] == 1
    assert results["groups"]["kind"]["b"] == {"accuracy": 0.0, "right": 0, "interval": None, "questions": 1}
    text = table(results, "run")
    assert "| **all** | 0.250 | – | 1 of 3 |" in text and "| kind: b | 0.000 | – | 0 of 1 |" in text
    empty = summarise([row(None)])
    assert empty["accuracy"] is None and "| **all** | – | – | 0 of 0 |" in table(empty, "run")
    assert "\n0 errors count as wrong; 1 rows do not count" in table(empty, "run")


def test_reasons_are_told_in_a_line_that_can_be_read():
    reasons = [f"row {i} of the annotations: {word} " + "of several words " * 20 for i, word in enumerate("abbcccdddd")]
    output = table(summarise([row(None, error=reason) for reason in reasons]), "run")
    (line,) = [line for line in output.split("\n") if "do not count" in line]
    assert "10 rows do not count: 4 d of" in line and line.index("3 c of") < line.index("2 b of") and len(line) < 450
    assert len(re.findall(r" (of|several|words) \.\.\.", line)) == 3, "no word is cut"
    assert ", 1 for other reasons" in line


def test_warnings_are_counted_by_kind():
    """One text is shown as it is; where texts differ in numbers, these are N."""
    rows = [{"warnings": ["shown at 0.5 instead of 2"]}, {"warnings": ["shown at 0.5 instead of 2", "empty"]}, {}]
    assert frequent_warnings(rows) == {"shown at 0.5 instead of 2": 2, "empty": 1}
    rows.append({"warnings": ["shown at 1 instead of 2"]})
    assert frequent_warnings(rows, 1) == {"shown at N instead of N": 3}
