"""What an answer says, as a person would read it."""

from dataclasses import replace

import pytest

from flexselect.evaluation.answer_parsing import chosen_letter, named_option, normalise_text
from flexselect.evaluation.questions import VideoQuestion
from flexselect.structures.frames import ReadOptions

FOUR = ("A green ring on a table", "A blue cube", "a red ball", "none of these")
TEN = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
BLUES = ("blue", "light blue", "red")

READ = [
    # a letter and nothing else
    ("B", FOUR, ["B", "b", "(b)", "[B]", " b) ", "B.", "'B'", "**B**", "Ｂ", "（B）", "B。", "$\\boxed{B}$", "B\n"]),
    ("B", FOUR, ["<think>maybe A.</think>B", "\\boxed{\\text{B}}"]),
    ("I", TEN, ["I", "I.", "The answer is I."]),
    # with its words, or a reason
    ("B", FOUR, ["B. A blue cube", "B) blue", "B: blue", "B, since it is blue", "B it is", "B是正确的", "(B) it is"]),
    ("B", FOUR, ["B because it is blue, and A is not", "B\n\nThe cube is blue."]),
    ("A", FOUR, ["A", "A.", "A, because it is green", "A is correct", "(a) green"]),
    # said to be the answer
    ("B", FOUR, ["The answer is B", "A man holds it, so the answer is B.", "Answer: B", "answer is b", "Option B"]),
    (
        "B",
        FOUR,
        ["The best answer is: **B**", "The correct option is (B).", "My choice: B", "答案是B", "我选B。"],
    ),
    (
        "B",
        FOUR,
        ["答案：B", "正解はBです", "选B", "The answer is A. No, the answer is B.", "It is not option A but option B"],
    ),
    # in words
    ("B", FOUR, ["A blue cube is on the table.", "It is the blue cube.", "a blue cube", "The answer is a blue cube"]),
    ("B", FOUR, ["It is not the red ball, it is the blue cube."]),
    ("B", ("blue", "light blue", "red"), ["light blue", "It is light blue."]),
    ("A", ("blue", "light blue", "red"), ["It is blue."]),
    ("B", ("Vitamin B", "Vitamin C", "Iron"), ["It is vitamin C", "Vitamin C."]),
    ("B", ("红色", "紫色"), ["圆圈是紫色的。", "紫色"]),
    ("B", ("Yes", "No"), ["No, yes would be wrong", "No."]),
    ("B", ("2", "12"), ["There are 12 of them"]),
    ("B", ("→", "←"), ["←"]),
    ("A", ("a ring", "a square"), ["A ring", "ring"]),
    # a letter among words
    ("B", FOUR, ["The ball is on the left, so it must be B.", "I choose B", "It is not A but B", "The letter is B"]),
    # none, or more than one
    (None, FOUR, ["Neither A nor B", "A or B", "A, B", "both A and C", "A man stands there", "", "E", "z", "Not B."]),
    (None, FOUR, ["the red ball and the blue cube", "A-frame house", "Because", "A. ring\nB. cube\nC. ball\nD. none"]),
    (None, TEN, ["I think so", "K"]),
]


@pytest.mark.parametrize(
    ("letter", "options", "answer"), [(letter, options, answer) for letter, options, said in READ for answer in said]
)
def test_which_option_an_answer_chooses(letter, options, answer):
    assert chosen_letter(answer, options) == letter


NAMED = {"B": ["B", "b", "(B)", "B.", "B. A blue cube"], "A": ["A green ring on a tablE."]}
NAMED[None] = ["B. a red ball", "A green ring", "Z", "the answer is B", ""]


@pytest.mark.parametrize(("letter", "text"), [(letter, text) for letter, texts in NAMED.items() for text in texts])
def test_what_an_annotation_names_is_exact(letter, text):
    assert named_option(text, FOUR) == letter


def test_a_letter_comes_first_where_options_are_letters():
    assert named_option("C", ("C", "A", "B")) == chosen_letter("C", ("C", "A", "B")) == "C"
    assert named_option("5", ("4", "5")) == "B"


SAME = [("紫色。", "紫色"), ("“purple”", "purple"), ("ice-cream", "ice cream"), ("U.S.A.", "USA"), ("1,000", "1000")]
SAME += [
    ("Red!!", " red"),
    ("¿Qué?", "qué"),
    ("«rouge»", "Rouge"),
    ("straße", "STRASSE"),
    ("３", "3"),
    ("\u22125", "-5"),
]
SAME.append(("\u22125", "-5"))
OTHERS = [("3.5", "35"), ("-5", "5"), ("5%", "5"), ("reddish", "red"), ("?", "!"), ("C++", "C"), ("a/b", "ab")]


@pytest.mark.parametrize(("one", "other", "same"), [*((*p, True) for p in SAME), *((*p, False) for p in OTHERS)])
def test_the_same_words(one, other, same):
    assert (normalise_text(one) == normalise_text(other)) is same
    assert VideoQuestion("1", "a.mp4", "Q?", answer=one).is_right(other) is same


def test_any_of_several_answers_will_do():
    words = VideoQuestion("1", "a.mp4", "Q?", answer=("purple", "violet"))
    assert words.is_right("Violet.") and words.is_right("purple") and not words.is_right("red")
    choice = VideoQuestion("1", "a.mp4", "Q?", BLUES, answer=("A", "light blue"))
    assert choice.is_right("(b)") and choice.is_right("A") and not choice.is_right("C")


def test_what_is_asked_has_a_hash():
    first = VideoQuestion("1", "a.mp4", "Q?", BLUES, "A")
    parts = {"options": BLUES[::-1]}, {"max_new_tokens": 3}, {"prompt": "Q? Say it."}, {"reading": ReadOptions(start=1)}
    assert len({first.prompt_hash, *(replace(first, **more).prompt_hash for more in parts)}) == 5
    assert replace(first, answer="B", id="2").prompt_hash == first.prompt_hash, "what is expected is not asked"


@pytest.mark.parametrize(
    "answer",
    [
        "Both A and B",
        "Both A and B are correct.",
        "Either A or B could be right",
        "The answer is A or B",
        "The answer is both A and B",
        "The answer is A/B",
        "Options A and C",
        "B and C are wrong",
        "B or C, I think",
    ],
)
def test_two_letters_choose_none(answer):
    assert chosen_letter(answer, ("a ring", "a cube", "a cat", "a dog")) is None


def test_canary_one_letter_beside_those_words_is_chosen():
    options = ("a ring", "a cube", "a cat", "a dog")
    output = {
        "The answer is A": "A",
        "B and nothing else": "B",
        "A is right": "A",
        "The answer is B. Not A or C": "B",
    }
    assert {answer: chosen_letter(answer, options) for answer in output} == output


def test_thoughts_are_no_answer():
    """Qwen3.5 with `thinking`: letters and words of the thoughts do not count."""
    options = ("red", "blue")
    choice = VideoQuestion("", "", "Which?", options, answer="B")
    assert choice.chosen("A is red, so (A)? No.\n</think>\n\nB") == "B" and choice.is_right("(A)\n</think>\n\n(B)")
    assert not choice.is_right("(B)\n</think>\n\n(A)")
    words = VideoQuestion("", "", "What colour?", answer="blue")
    assert words.is_right("It could be red.\n</think>\n\nBlue.") and not words.is_right("blue</think>red")
