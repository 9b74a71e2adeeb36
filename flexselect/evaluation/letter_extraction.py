"""How a letter is read out of an answer: the rule of each protocol. What no rule can read is None, never a guess."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from functools import partial

from flexselect.evaluation.answer_parsing import LETTERS, chosen_letter

Extractor = Callable[[str, Sequence[str]], str | None]  # (answer, the options in words) -> letter

LEAD_INS = ("The best answer is", "The correct answer is", "The answer is", "The answer")
WHOLE_LEAD_INS = (*LEAD_INS, "The best option is", "The correct option is", "Best answer:", "Best option:")
JOINED_LEAD_INS = (  # a comma is missing twice in the released evaluation, and so four are never found
    *LEAD_INS,
    "The best option isThe correct option is",
    "Best answer:Best option:",
)


def first_letter(
    answer: str, options: Sequence[str], lead_ins: Sequence[str] = JOINED_LEAD_INS, letters: str = "ABCD"
) -> str | None:
    """VideoMME and LVBench as released: without lead-ins, the first of A to D."""
    for lead_in in lead_ins:
        answer = answer.replace(lead_in, "")
    found = re.search(f"[{letters}]", answer)
    return found.group() if found else None


def ranked(answer: str, options: Sequence[str]) -> str | None:
    """VideoMME, MLVU and LVBench in lmms-eval 0.7: the best form that a letter is given in; of equals, the last.

    What is known of it was found by trying: of 40,000 answers made by chance out of letters, brackets and lead-ins, 18
    are read otherwise there.
    """
    text = answer.strip(string.whitespace + ".,!?;:'\"")
    alone = re.match(r"[A-D](?![^\W\d_])", text) or re.search(r"(?<![^\W\d_])[A-D]$", text)
    if alone:
        return alone.group()
    for lead_in in ("answer is", "best option is", "correct option is", "choice is"):
        found = re.search(lead_in, text, re.IGNORECASE)
        said = re.findall("[A-D]", text[found.end() :]) if found else []
        if said:
            return max(dict.fromkeys(said), key=said.index)  # the one that is named last for the first time
    for form in (r"\(([A-D])\)", r"([A-D])\.", "([A-D]):", r"([A-D])\)", "([A-D]) ", "([A-D])"):
        said = re.findall(form, f"{text} ")
        if said:
            return said[-1]
    return None


def before_bracket(answer: str, options: Sequence[str]) -> str | None:
    """MLVU: what stands right before the first ")"; the whole answer where there is none."""
    head, bracket, _ = answer.partition(")")
    letter = head[-1:] if bracket else answer
    return letter if letter and letter in LETTERS[: len(options)] else None


def mmmu(answer: str, options: Sequence[str]) -> str | None:
    """LongVideoBench: as MMMU reads multiple choice: "(A)", then " A ", then an option's words; the last one wins."""
    text = f" {answer.strip(',.!?;:' + chr(39))} "
    letters = LETTERS[: len(options)]
    for pattern in ("({})", " {} "):
        found = {letter: text.rfind(pattern.format(letter)) for letter in letters}
        if max(found.values()) >= 0:
            return max(found, key=found.__getitem__)
    if len(text.split()) > 5:
        words = {letter: text.lower().rfind(option.lower()) for letter, option in zip(letters, options)}
        if max(words.values()) >= 0:
            return max(words, key=words.__getitem__)
    return None


EXTRACTORS: dict[str, Extractor] = {
    "ours": chosen_letter,
    "first_letter": first_letter,
    "first_letter_after_any_lead_in": partial(first_letter, lead_ins=WHOLE_LEAD_INS),
    "first_letter_to_e": partial(first_letter, lead_ins=WHOLE_LEAD_INS, letters="ABCDE"),  # LongVideoBench in lmms-eval
    "ranked": ranked,
    "before_bracket": before_bracket,
    "mmmu": mmmu,
}
