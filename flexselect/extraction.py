"""How a letter is read out of an answer: the rule of each protocol. What no rule can read is None, never a guess."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence

Extractor = Callable[[str, Sequence[str]], str | None]  # (answer, the options in words) -> letter

LETTERS = string.ascii_uppercase
LEAD_INS = (  # the last two are joined by a missing comma in the released evaluation, and so never found
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",
    "Best answer:Best option:",
)


def first_letter(answer: str, options: Sequence[str]) -> str | None:
    """VideoMME and LVBench: without lead-ins, the first of A to D; none in more than ten words without one."""
    for lead_in in LEAD_INS:
        answer = answer.replace(lead_in, "")
    found = re.search("[ABCD]", answer.strip())
    return found.group() if found else None


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


def ours(answer: str, options: Sequence[str]) -> str | None:
    """Alone, "B. ring", "(B)", "The answer is B", or in words."""
    in_words = [plain(option) for option in options]
    if plain(answer) in in_words:
        return LETTERS[in_words.index(plain(answer))]
    letters = re.escape(LETTERS[: len(options)])
    first = re.match(rf"\W*([{letters}])\b", answer) or re.search(rf"\b([{letters}])\b(?=\W*$)", answer)
    return first.group(1) if first else None


def plain(text: str) -> str:
    """Without the punctuation around it, whatever its case."""
    return text.strip().strip(string.punctuation + string.whitespace).casefold()


EXTRACTORS: dict[str, Extractor] = {
    "ours": ours,
    "first_letter": first_letter,
    "before_bracket": before_bracket,
    "mmmu": mmmu,
}
