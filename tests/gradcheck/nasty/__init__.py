"""Correct functions that are nasty to check: a tool that fails one of them cries wolf."""

from tests.gradcheck.example import Example
from tests.gradcheck.nasty import (
    big,
    branch,
    constants,
    curved,
    few_kinks,
    forms,
    kinks,
    masked,
    mixed,
    raises,
    scale,
    sharp,
    small_terms,
    unsuited,
    zeros,
)

# what an earlier checker cried wolf at, or could not judge: each file aims at one weakness
AIMED = (constants, masked, sharp, mixed, small_terms, branch, raises, few_kinks)
FILES = (kinks, scale, zeros, curved, forms, unsuited, big, *AIMED)
NASTY: list[Example] = [example for file in FILES for example in file.NASTY]
