"""The patterns that cut a text into pre-tokens. Merges never cross the border between two."""

import functools
import re

import regex

from npgpt.tokenizer.base import to_utf8

# in both patterns `[^\s\p{L}\p{N}]` is the rest: punctuation, symbols, marks, and unassigned code points
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# `(?![\s\S])` is the end of the text: `$` and `\Z` mean different things in different libraries
GPT4 = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s+(?![\s\S])|\s*[\r\n]|\s+(?!\S)|\s+"
)

# GPT4, except that Chinese characters are never joined with a bracket, a comma or Latin letters
CHINESE = GPT4.replace(r"|[^\r\n\p{L}\p{N}]?\p{L}+", r"|\p{Han}+|[^\r\n\p{L}\p{N}]?(?:(?!\p{Han})\p{L})+")

# Sources: encoder.py of GPT-2, and tiktoken_ext/openai_public.py (r50k_base, cl100k_base)
PATTERNS = {"gpt2": GPT2, "gpt4": GPT4, "chinese": CHINESE}

# the same patterns as other libraries write them
ALSO = {
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": GPT2,
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s": GPT2,
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s": GPT4,
}

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# patterns that are known to take time in proportion to the text: the named ones, Llama 3's, Qwen's and GPT-4o's
LINEAR = {*PATTERNS.values(), LLAMA3, LLAMA3.replace("{1,3}", ""), GPT4O}
# the most seconds of computing that any other pattern may take: for a text, and for each of its characters. That is
# some fifty times what a sensible pattern needs
SECONDS, SECONDS_PER_CHARACTER = 5.0, 20e-6


def pattern_text(pattern: str) -> str:
    """Return the regular expression of a pattern: one of PATTERNS by its name, or the expression itself.

    Raises ValueError for one that the `regex` module cannot compile.
    """
    pattern = PATTERNS.get(pattern, pattern)
    pattern = ALSO.get(pattern, pattern)
    compiled(pattern)
    return pattern


@functools.lru_cache(maxsize=64)
def compiled(pattern: str) -> regex.Pattern:
    """Return the compiled expression. Raises ValueError for one that is wrong, saying where, or empty."""
    to_utf8(pattern)
    if not pattern:
        raise ValueError(f"the pattern is empty: give one of {', '.join(PATTERNS)}, or a regular expression")
    try:
        return regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError) as error:
        raise ValueError(
            f"the pattern {pattern!r} is not one of {', '.join(PATTERNS)}, nor a regular expression: {error}"
        ) from None


def find_spans(pattern: str, text: str) -> list[tuple[int, int]]:
    """Return where the matches of a pattern begin and end.

    Raises ValueError if it takes far longer than a text of this length should. An example is (a|aa)+$ on forty times a
    and a b: each further a makes it 1.6 times as slow.
    """
    if pattern in LINEAR:  # without a limit, because with one the `regex` module looks at the clock at each match
        return [match.span() for match in compiled(pattern).finditer(text)]
    limit = SECONDS + SECONDS_PER_CHARACTER * len(text)
    try:
        return [match.span() for match in compiled(pattern).finditer(text, timeout=limit)]
    except TimeoutError:
        raise ValueError(
            f"the pattern {pattern!r} found no end within {limit:.1f} s in a text of {len(text):,} characters: there "
            f"are too many ways to match; use one of {', '.join(PATTERNS)}, or a simpler regular expression"
        ) from None


@functools.lru_cache(maxsize=64)
def special_pattern(names: tuple[bytes, ...]) -> re.Pattern[bytes]:
    """Return an expression that finds tokens in UTF-8: the leftmost one, and of several there the longest."""
    return re.compile(b"|".join(map(re.escape, sorted(names, key=len, reverse=True))))
