"""What an answer says, read as a person would: which option it chooses, and whether two texts are the same words."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Iterator, Sequence

LETTERS = string.ascii_uppercase

# -- words

KEPT_SIGNS = "%‰&@#*/\\§"  # punctuation by Unicode, and part of what is said


def plain(text: str) -> str:
    """The words of a text, whatever its case, spaces and punctuation, of any script.

    Hyphens part words, so "ice-cream" is "ice cream"; "U.S.A." is "USA". Numbers keep their point and minus sign.
    """
    whole = unicodedata.normalize("NFKC", text).casefold().strip()
    whole = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", whole)  # 1,000
    return " ".join("".join(_without_punctuation(whole)).split()) or whole


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

ARTICLES = "AI"  # letters that are English words as well
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
LISTED = re.compile(r"^\W*([A-Z])[.):]\s", re.MULTILINE)  # all options once more
WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")  # scripts without spaces, or with endings


def named_option(text: str, options: Sequence[str]) -> str | None:
    """The option that an annotation names: by its letter, its words, or both, and by nothing else.

    "B", "b", "(B)", "B.", "B. ring", "ring". A letter comes first where an option is called like one.
    """
    text, words = unicodedata.normalize("NFKC", text).strip(), [plain(option) for option in options]
    found = re.fullmatch(r"[(\[]?([A-Za-z])[)\].:]*(?:(?<=[)\].:])\s*(\S.*))?", text, re.DOTALL)
    place = LETTERS.find(found.group(1).upper()) if found else -1
    if found and 0 <= place < len(options) and found.group(2) in (None, *[options[place]]):
        return LETTERS[place]
    if plain(text) in words:
        return LETTERS[words.index(plain(text))]
    same = found and 0 <= place < len(options) and plain(found.group(2)) == words[place]
    return LETTERS[place] if same else None


def chosen_letter(answer: str, options: Sequence[str]) -> str | None:
    """The letter of the option that an answer chooses; None where it chooses none, or more than one.

    In this order: the whole answer is an option, by letter or in words; it says which ("the answer is B", "选B"); it
    begins with a letter that is no article ("B. ring"); it has one in brackets or before a point; it has the words of
    one option; it has one letter standing alone. What is negated ("not B", "neither A nor B") does not count.
    """
    text = unicodedata.normalize("NFKC", answer.rpartition("</think>")[2])
    text = re.sub(r"\\boxed\{(?:\\text\{)?([^{}]*)\}+", r"(\1)", text)
    text = text.replace("*", "").replace("`", "").replace("$", "").strip(" \t\n\"'“”‘’«»「」")
    whole = named_option(text, options) or named_option(text.rstrip(".!。 "), options)
    if whole is not None or SEVERAL.fullmatch(text):
        return whole
    letters = LETTERS[: len(options)]
    rules: tuple[Callable[[], str | None], ...] = (
        lambda: next(iter(_said(DECLARED, text, letters)[::-1]), None),  # the last one: "... no, the answer is B"
        lambda: _leading(text, letters),
        lambda: _only(_said(MARK, text, letters)),
        lambda: _in_words(text, options),
        lambda: _only(_said(ALONE, text, letters)),
    )
    return next((letter for rule in rules if (letter := rule()) is not None), None)


def _only(letters: Sequence[str]) -> str | None:
    """The one that there is."""
    return letters[0] if len(set(letters)) == 1 else None


def _said(pattern: re.Pattern[str], text: str, letters: str) -> list[str]:
    """The letters that a pattern finds; none that is negated, and no article."""
    found = []
    for match in pattern.finditer(text):
        letter = next(filter(None, match.groups()))
        article = letter in ARTICLES and BEFORE_A_NOUN.match(text[match.end() :])
        if letter.upper() in letters and not article and NOT.search(text[: match.start()]) is None:
            found.append(letter.upper())
    return found


def _leading(text: str, letters: str) -> str | None:
    """A letter at the very beginning; none where all options are listed once more."""
    found = LEADING.match(text)
    if found is None or len(set(LISTED.findall(text))) > 1:
        return None
    letter = next(filter(None, found.groups())).upper()
    return letter if letter in letters else None


def _in_words(text: str, options: Sequence[str]) -> str | None:
    """The option that an answer begins with, or the one whose words it has; a longer option hides one inside it."""
    words, said = [_bare(plain(option)) for option in options], plain(text)
    begins = _bare(plain(re.split(r"[,;.:!?\n，。；：！？、]", text, maxsplit=1)[0]))
    if words.count(begins) == 1:
        return LETTERS[words.index(begins)]
    places = [(place, i) for i, option in enumerate(words) for place in _places(said, option)]
    hidden = {place for place, _ in places for other, _ in places if place != other and _inside(place, other)}
    found = {i for place, i in places if place not in hidden and NOT.search(said[: place[0]]) is None}
    return LETTERS[found.pop()] if len(found) == 1 else None


def _bare(words: str) -> str:
    """Without an article before it."""
    return re.sub(r"^(?:the|a|an) (?=.)", "", words)


def _inside(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return other[0] <= one[0] and one[1] <= other[1]


def _places(said: str, words: str) -> Iterator[tuple[int, int]]:
    """Where words stand in a text, as whole words where their script has such."""
    before, after = ("", "") if WIDE.search(words) else (r"(?<!\w)", r"(?!\w)")
    return (match.span() for match in re.finditer(before + re.escape(words) + after, said))
