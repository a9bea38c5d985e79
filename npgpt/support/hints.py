"""What to say of a word that is unknown: the nearest known one, or what an earlier version's is called now."""

import difflib
from collections.abc import Iterable
from typing import Any

# words of earlier versions: (a setting, its value) and what is said of it now
FORMER = {
    ("init", "gpt2"): "it is called normal now, because it draws random weights and loads no GPT-2: give normal, or "
    "--from openai-community/gpt2 to go on from GPT-2's own weights"
}


def former(name: str, value: Any) -> str:
    """Return ": what is said" of a word that an earlier version had for a setting's value; "" for any other."""
    said = FORMER.get((name, str(value)), "")
    return said and f": {said}"


def nearest(word: str, words: Iterable[str]) -> str:
    """Return "; did you mean ...?" with the most similar word, or a list of all words if none is similar.

    >>> nearest("tyni", ["tiny", "small"])
    "; did you mean 'tiny'?"
    """
    words = list(words)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(words)}"
