"""Letters read out of answers, by each protocol's rule."""

import pytest

from flexselect.evaluation.letter_extraction import (
    EXTRACTORS,
    before_bracket,
    chosen_letter,
    first_letter,
    mmmu,
    ranked,
)

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
    assert chosen_letter(answer, OPTIONS) == letter


def test_options_that_are_signs_are_told_apart():
    assert chosen_letter("\u2190", ("\u2192", "\u2190")) == "B"


@pytest.mark.parametrize(
    ("answer", "letter"),
    [  # as lmms-eval 0.7.3 answered when it was asked
        ("B", "B"),
        ("(B)", "B"),
        ("b", None),
        ("Option B", "B"),
        ("A man is B", "A"),
        ("A x (B)", "A"),
        ("x C. y D", "D"),
        ("z C. y D w", "C"),
        ("z (B) y C. w", "B"),
        ("x D: y A) w", "D"),
        ("The answer is (D) red", "D"),
        ("The answer is B. A is wrong", "A"),
        ("The answer is: (B) orange. Because xDx", "D"),
        ("(A) red\n(B) orange", "B"),
        ("The correct option is C, not D", "D"),
        ("Because", "B"),
        ("xAxBxAx", "A"),
        ("choice is, AnswerEredDAthe", "D"),
        ("", None),
        ("E", None),
    ],
)
def test_ranked(answer, letter):
    assert ranked(answer, OPTIONS) == letter


def test_first_letter_without_the_slip():
    whole, to_e = EXTRACTORS["first_letter_after_any_lead_in"], EXTRACTORS["first_letter_to_e"]
    assert whole("Best answer: C", OPTIONS) == to_e("Best answer: C", OPTIONS) == "C"
    assert whole("E", OPTIONS) is None and to_e("E", OPTIONS) == "E"
