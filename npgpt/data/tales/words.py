"""The words of the tales: sets of words, each word with its forms in English and in Chinese."""

from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from npgpt.config import LANGS as LANGS

FOLDER = Path(__file__).parent
PRONOUNS = {
    "she": {"he": "she", "He": "She", "him": "her", "himself": "herself", "his": "her", "His": "Her"},
    "he": {"he": "he", "He": "He", "him": "him", "himself": "himself", "his": "his", "His": "His"},
}


def language_of(text: str) -> str:
    """Return the language of a text: "zh" if it has any Chinese character, else "en"."""
    return "zh" if any("一" <= c <= "鿿" for c in text) else "en"


class Word(NamedTuple):
    """A word: its place in its set, and its forms, such as `word.en.noun` and `word.zh.noun`."""

    number: int
    en: SimpleNamespace
    zh: SimpleNamespace


def read_words(text: str) -> dict[str, tuple[Word, ...]]:
    """Read sets of words: a line `name: form | form`, then one line per word, with its forms in that order.

    Names of English forms are plain, as `noun`; Chinese ones begin with `zh.`, as `zh.noun`.

    Example: "kinds: noun | zh.noun" and "fox | 狐狸" give a set `kinds` of one word, whose en.noun is "fox" and whose
    en.a, which is derived, is "a fox".

    Raises ValueError, with the number of the line, if a word has too many or too few forms.
    """
    sets: dict[str, list[Word]] = {}
    columns: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if ":" in line:
            name, _, header = line.partition(":")
            columns = cells(header)
            sets[name] = []
            continue
        values = cells(line)
        if len(values) != len(columns):
            raise ValueError(f"line {number}: {line!r} has {len(values)} forms, expected {' | '.join(columns)}")
        sets[name].append(make_word(len(sets[name]), dict(zip(columns, values, strict=True))))
    return {name: tuple(words) for name, words in sets.items()}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")]


def make_word(index: int, forms: dict[str, str]) -> Word:
    """Return a word with the given forms and those derived from them: {"noun": "owl"} also gives a = "an owl"."""
    zh = {name.removeprefix("zh."): form for name, form in forms.items() if name.startswith("zh.")}
    en = {name: form for name, form in forms.items() if not name.startswith("zh.")}
    if "pronoun" in en:
        en |= PRONOUNS[en.pop("pronoun")]
    for name in ("noun", "adj"):
        if name in en:
            en["a"] = ("an " if en[name][0] in "aeiou" or en[name].startswith("honest") else "a ") + en[name]
            en["A"] = en["a"].capitalize()
    if "word" in en:
        en["Word"] = en["word"].capitalize()
    if "mw" in zh:
        zh["one"] = "一" + zh["mw"] + zh["noun"]
    return Word(index, SimpleNamespace(**en), SimpleNamespace(**zh))
