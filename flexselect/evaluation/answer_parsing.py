"""Read an answer as a person would: which option it chooses, and whether two texts have the same words."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Iterator, Sequence

LETTERS = string.ascii_uppercase
END_OF_THOUGHT = "</think>"  # of models that think before they answer, such as Qwen3.5


def after_thought(answer: str) -> str:
    """Return the part of an answer that follows the model's thoughts; all of it if it has none."""
    return answer.rpartition(END_OF_THOUGHT)[2]


# -- words

KEPT_SIGNS = "%‰&@#*/\\§"  # Unicode calls these punctuation, but they carry meaning


def normalise_text(text: str) -> str:
    """Reduce a text of any script to its words: without case, punctuation and extra spaces.

    Hyphens separate words, so "ice-cream" is "ice cream"; "U.S.A." is "USA". Numbers keep their point and minus sign.
    """
    lowered = unicodedata.normalize("NFKC", text).casefold().strip()
    lowered = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", lowered)  # 1,000
    return " ".join("".join(_without_punctuation(lowered)).split()) or lowered


def _without_punctuation(text: str) -> Iterator[str]:
    for before, character, after in zip(f" {text}", text, f"{text[1:]} "):
        kind = unicodedata.category(character)
        if character == "." and before.isdigit() and after.isdigit():
            yield character
        elif kind == "Pd" or character == "\N{MINUS SIGN}":
            yield "-" if after.isdigit() and before.isspace() else " "
        elif kind[0] != "P" or character in KEPT_SIGNS:
            yield character


# -- letters

ARTICLES = "AI"  # letters that are also English words
BEFORE_A_NOUN = re.compile(r"\s+(?!because|since|is\b|as\b|(?:and|or)\s+[A-Z]\b)[a-z]")
NOT = re.compile(
    r"(?:\b(?:not|never|neither|nor|except|excluding|without|rather than|instead of|cannot be)|n['’]t|不是|并非|而非)"
    r"\s*(?:(?:the|a|an|option|answer|choice)\s+)*\W{0,2}$",
    re.IGNORECASE,
)
DECLARED = re.compile(
    r"(?:\b(?:answer|choice|option|response)\b(?:\s*(?:is|was|would be|should be|must be|option|letter|choice|:|=))*"
    r"|(?:答案|答え|正解|정답|选项|選項|选择|選擇|选|選)(?:\s*(?:应该|應該|是|为|為|は|은|:|=))*)"
    r"\s*[(\[\"'“‘]*(?P<letter>(?-i:[A-Z])(?![^\W\d_])(?!\W*(?:\b(?:and|or)\b|/|&)\W*(?-i:[A-Z])\b)"
    r"|[a-z](?=[)\].]*\s*$))",
    re.IGNORECASE | re.ASCII,
)
LEADING = re.compile(
    r"[(\[](?P<bracket>[A-Za-z])[)\]]"  # (B)
    r"|(?P<mark>[A-Za-z])[.):](?:\s|$|(?=[^\x00-\x7f]))"  # B. ring
    r"|(?P<clear>[A-Z])(?=\s*(?:[,;\n]|$|[^\x00-\x7f])|\s+[-–—=]\s|\s+(?:is|because|since)\b)"  # B, since
    r"|(?P<plain>[B-HJ-Z])\s(?!(?:and|or)\s+[A-Z]\b)"  # B it is
)
MARK = re.compile(r"\((?P<bracket>[A-Za-z])\)|(?<![^\W_])(?P<mark>[A-Z])(?:[):](?!\w)|\.\s*$)", re.MULTILINE)
ALONE = re.compile(r"(?<![^\W_])(?P<letter>[A-Z])(?![^\W_])(?!['’-]\w)")
SEVERAL = re.compile(r"\W*(?i:both |either )?[A-Z](?:\s*(?:,|/|&|\band\b|\bor\b|和|或|、)\s*)+(?:[A-Z]\b\W*)+")
LISTED = re.compile(r"^\W*([A-Z])[.):]\s", re.MULTILINE)  # options repeated in the answer
WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")  # scripts without spaces, or with suffixes


def named_option(text: str, options: Sequence[str]) -> str | None:
    """Return the letter of the option that an annotation names; None if it names none.

    The annotation is the option's letter, its words, or both, and nothing else: "B", "b", "(B)", "B.", "B. ring",
    "ring". The letter counts first if an option's words are also a letter.
    """
    text, words = unicodedata.normalize("NFKC", text).strip(), [normalise_text(option) for option in options]
    match = re.fullmatch(r"[(\[]?([A-Za-z])[)\].:]*(?:(?<=[)\].:])\s*(\S.*))?", text, re.DOTALL)
    number = LETTERS.find(match.group(1).upper()) if match else -1
    if match and 0 <= number < len(options) and match.group(2) in (None, options[number]):
        return LETTERS[number]
    if normalise_text(text) in words:
        return LETTERS[words.index(normalise_text(text))]
    same = match and 0 <= number < len(options) and normalise_text(match.group(2)) == words[number]
    return LETTERS[number] if same else None


def chosen_letter(answer: str, options: Sequence[str]) -> str | None:
    """Return the letter of the option that an answer chooses; None if it chooses no option, or more than one.

    The first rule that gives a letter counts:
    1. The whole answer is an option, by letter or in words.
    2. The answer declares a letter ("the answer is B", "选B").
    3. It begins with a letter that is not an article ("B. ring").
    4. It has one letter in brackets or before a point.
    5. It has the words of one option.
    6. It has one letter standing alone.
    A negated letter or option ("not B", "neither A nor B") does not count.
    """
    text = unicodedata.normalize("NFKC", answer.rpartition("</think>")[2])
    text = re.sub(r"\\boxed\{(?:\\text\{)?([^{}]*)\}+", r"(\1)", text)
    text = text.replace("*", "").replace("`", "").replace("$", "").strip(" \t\n\"'“”‘’«»「」")
    whole = named_option(text, options) or named_option(text.rstrip(".!。 "), options)
    if whole is not None or SEVERAL.fullmatch(text):
        return whole
    letters = LETTERS[: len(options)]
    rules: tuple[Callable[[], str | None], ...] = (
        lambda: next(
            iter(_matched_letters(DECLARED, text, letters)[::-1]), None
        ),  # the last: "... no, the answer is B"
        lambda: _leading(text, letters),
        lambda: _only(_matched_letters(MARK, text, letters)),
        lambda: _in_words(text, options),
        lambda: _only(_matched_letters(ALONE, text, letters)),
    )
    return next((letter for rule in rules if (letter := rule()) is not None), None)


def _only(letters: Sequence[str]) -> str | None:
    """Return the letter if all letters are equal, else None."""
    return letters[0] if len(set(letters)) == 1 else None


def _matched_letters(pattern: re.Pattern[str], text: str, letters: str) -> list[str]:
    """Return the letters that a pattern matches, without negated letters and articles."""
    matched = []
    for match in pattern.finditer(text):
        letter = next(filter(None, match.groups()))
        article = letter in ARTICLES and BEFORE_A_NOUN.match(text[match.end() :])
        if letter.upper() in letters and not article and NOT.search(text[: match.start()]) is None:
            matched.append(letter.upper())
    return matched


def _leading(text: str, letters: str) -> str | None:
    """Return the letter at the very beginning; None if the answer repeats the list of options."""
    match = LEADING.match(text)
    if match is None or len(set(LISTED.findall(text))) > 1:
        return None
    letter = next(filter(None, match.groups())).upper()
    return letter if letter in letters else None


def _in_words(text: str, options: Sequence[str]) -> str | None:
    """Return the letter of the option that an answer begins with, or else of the only option whose words it has.

    An option inside the words of a longer option does not count.
    """
    words, answer = [_without_article(normalise_text(option)) for option in options], normalise_text(text)
    first_clause = _without_article(normalise_text(re.split(r"[,;.:!?\n，。；：！？、]", text, maxsplit=1)[0]))
    if words.count(first_clause) == 1:
        return LETTERS[words.index(first_clause)]
    spans = [(span, i) for i, option in enumerate(words) for span in _find_words(answer, option)]
    hidden = {span for span, _ in spans for other, _ in spans if span != other and _inside(span, other)}
    chosen = {i for span, i in spans if span not in hidden and NOT.search(answer[: span[0]]) is None}
    return LETTERS[chosen.pop()] if len(chosen) == 1 else None


def _without_article(words: str) -> str:
    """Remove a leading article."""
    return re.sub(r"^(?:the|a|an) (?=.)", "", words)


def _inside(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return other[0] <= one[0] and one[1] <= other[1]


def _find_words(text: str, words: str) -> Iterator[tuple[int, int]]:
    """Yield the spans of words in a text; they must be whole words if their script separates words."""
    before, after = ("", "") if WIDE.search(words) else (r"(?<!\w)", r"(?!\w)")
    return (match.span() for match in re.finditer(before + re.escape(words) + after, text))
