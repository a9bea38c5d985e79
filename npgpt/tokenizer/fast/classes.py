"""The classes of Unicode in GPT-2's and GPT-4's patterns, as a table over all code points."""

import functools

import numpy as np
import regex

LETTER, NUMBER, SPACE, NEWLINE, OTHER = 1, 2, 4, 8, 16  # bits: a line end is SPACE and NEWLINE


@functools.cache
def code_point_classes() -> np.ndarray:
    r"""Return the class of each code point, (0x110000,) uint8, according to the `regex` module.

    LETTER is \p{L}, NUMBER \p{N}, SPACE \s, NEWLINE [\r\n], OTHER none of these: the class of "a" is LETTER, that of
    "\n" SPACE | NEWLINE. The table comes from `regex` and not from `unicodedata`, because the two may have different
    versions of Unicode.
    """
    everything = np.arange(0x110000, dtype="<u4").tobytes().decode("utf-32-le", errors="surrogatepass")
    classes = np.zeros(len(everything), np.uint8)
    for pattern, bit in ((r"\p{L}+", LETTER), (r"\p{N}+", NUMBER), (r"\s+", SPACE), (r"[\r\n]", NEWLINE)):
        for match in regex.finditer(pattern, everything):
            classes[match.start() : match.end()] |= bit
    classes[classes == 0] = OTHER
    return classes
