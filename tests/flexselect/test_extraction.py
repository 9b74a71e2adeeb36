"""Letters read out of answers, by each protocol's rule."""

import pytest

from flexselect.extraction import before_bracket, first_letter, mmmu, ours

OPTIONS = ("a ring", "a square", "Blue paint", "none")


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("B. a square", "B"),
        ("The best answer is C", "C"),
        ("The answer is (D)", "D"),
        ("The correct option is C", "C"),  # its lead-in is never found, and has no A to D before the letter
        ("Best answer: C", "B"),  # the released slip: the lead-in is not taken away, its own B is read
        ("Dogs", "D"),
        ("red", None),
        ("", None),
    ],
)
def test_first_letter(answer, letter):
    assert first_letter(answer, OPTIONS) == letter


@pytest.mark.parametrize(
    ("answer", "letter"),
    [("A)", "A"), ("(C) blue", "C"), ("B", "B"), ("B. a square", None), ("E)", None), (")", None), ("", None)],
)
def test_before_bracket(answer, letter):
    assert before_bracket(answer, OPTIONS) == letter


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("(A) or rather (C)", "C"),
        ("I say B .", "B"),
        ("I think that it is a square", "B"),
        ("square", None),
        ("E", None),
        ("", None),
    ],
)
def test_mmmu(answer, letter):
    assert mmmu(answer, OPTIONS) == letter


@pytest.mark.parametrize(
    ("answer", "letter"), [("a square.", "B"), ("(B)", "B"), ("The answer is B", "B"), ("Because", None), ("z", None)]
)
def test_ours(answer, letter):
    assert ours(answer, OPTIONS) == letter


def test_options_that_are_signs_are_told_apart():
    assert ours("\u2190", ("\u2192", "\u2190")) == "B"
