import pytest

from flexselect.evaluation.questions import VideoQuestion

WORDS = VideoQuestion("1", "v.mp4", "Which?", answer="Red")
CHOICE = VideoQuestion("1", "v.mp4", "Which?", options=("ring", "circle", "a cup"), answer="B")


@pytest.mark.parametrize(
    ("answer", "right"), [("red", True), (" Red. ", True), ("reddish", False), ("", False), (None, False)]
)
def test_answers_in_words(answer, right):
    assert WORDS.is_right(answer) is right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("B", True),
        ("B.", True),
        ("(B) circle", True),
        ("B. circle", True),
        ("circle", True),
        ("The answer is B.", True),
        ("A", False),
        ("a cup", False),
        ("Because it is round", False),
        ("D", False),
        ("", False),
    ],
)
def test_answers_by_letter(answer, right):
    assert CHOICE.is_right(answer) is right


def test_the_expected_answer_may_be_in_words_too():
    assert VideoQuestion("1", "v.mp4", "Which?", options=("ring", "circle"), answer="circle").is_right("B")


def test_options_are_listed():
    assert CHOICE.text.splitlines()[:4] == ["Which?", "A. ring", "B. circle", "C. a cup"]
    assert WORDS.text == "Which?"
