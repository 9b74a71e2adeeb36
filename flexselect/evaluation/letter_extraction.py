"""Read the letter out of an answer by a protocol's rule; an answer without a letter gives None, never a guess."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from functools import partial

from flexselect.evaluation.answer_parsing import LETTERS, chosen_letter

Extractor = Callable[[str, Sequence[str]], str | None]  # (answer, the options in words) -> letter

LEAD_INS = ("The best answer is", "The correct answer is", "The answer is", "The answer")
WHOLE_LEAD_INS = (*LEAD_INS, "The best option is", "The correct option is", "Best answer:", "Best option:")
JOINED_LEAD_INS = (  # the released code lacks two commas, so that four lead-ins never match
    *LEAD_INS,
    "The best option isThe correct option is",
    "Best answer:Best option:",
)


def first_letter(
    answer: str, options: Sequence[str], lead_ins: Sequence[str] = JOINED_LEAD_INS, letters: str = "ABCD"
) -> str | None:
    """Return the first letter from A to D after the lead-ins are removed: VideoMME and LVBench as released."""
    for lead_in in lead_ins:
        answer = answer.replace(lead_in, "")
    match = re.search(f"[{letters}]", answer)
    return match.group() if match else None


def ranked(answer: str, options: Sequence[str]) -> str | None:
    """Return the letter in the clearest form, the last one of equals: VideoMME, MLVU and LVBench in lmms-eval 0.7.

    The rule was inferred from experiments: for 40,000 random answers of letters, brackets and lead-ins, lmms-eval reads
    18 differently.
    """
    text = answer.strip(string.whitespace + ".,!?;:'\"")
    alone = re.match(r"[A-D](?![^\W\d_])", text) or re.search(r"(?<![^\W\d_])[A-D]$", text)
    if alone:
        return alone.group()
    for lead_in in ("answer is", "best option is", "correct option is", "choice is"):
        match = re.search(lead_in, text, re.IGNORECASE)
        letters = re.findall("[A-D]", text[match.end() :]) if match else []
        if letters:
            return max(dict.fromkeys(letters), key=letters.index)  # the letter whose first mention comes last
    for form in (r"\(([A-D])\)", r"([A-D])\.", "([A-D]):", r"([A-D])\)", "([A-D]) ", "([A-D])"):
        letters = re.findall(form, f"{text} ")
        if letters:
            return letters[-1]
    return None


def before_bracket(answer: str, options: Sequence[str]) -> str | None:
    """Return the letter right before the first ")", or the whole answer if there is no bracket: MLVU."""
    head, bracket, _ = answer.partition(")")
    letter = head[-1:] if bracket else answer
    return letter if letter and letter in LETTERS[: len(options)] else None


def mmmu(answer: str, options: Sequence[str]) -> str | None:
    """Return the last letter as "(A)", else as " A ", else by an option's words: LongVideoBench, from MMMU."""
    text = f" {answer.strip(',.!?;:' + chr(39))} "
    letters = LETTERS[: len(options)]
    for pattern in ("({})", " {} "):
        positions = {letter: text.rfind(pattern.format(letter)) for letter in letters}
        if max(positions.values()) >= 0:
            return max(positions, key=positions.__getitem__)
    if len(text.split()) > 5:
        positions = {letter: text.lower().rfind(option.lower()) for letter, option in zip(letters, options)}
        if max(positions.values()) >= 0:
            return max(positions, key=positions.__getitem__)
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
