"""The known word nearest to a misspelt one, for error messages."""

import difflib
from collections.abc import Iterable


def nearest(word: str, words: Iterable[str]) -> str:
    """Return "; did you mean ...?" with the most similar word, or a list of all words if none is similar.

    >>> nearest("tyni", ["tiny", "small"])
    "; did you mean 'tiny'?"
    """
    words = list(words)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(words)}"
