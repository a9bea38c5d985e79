"""Planted bugs: each a backward that is wrong, and where it is known, the report of the one who met it."""

from tests.gradcheck.bugs import (
    activations,
    attention,
    big,
    branch,
    constants,
    contract,
    convolution,
    embedding,
    few_kinks,
    linear,
    losses,
    margins,
    masked,
    maths,
    matrices,
    mixed,
    norms,
    raises,
    recurrent,
    returns,
    scale,
    shapes,
    sharp,
    small_terms,
)
from tests.gradcheck.example import Example

# what an earlier checker was blind to, or cried wolf at: each file aims at one weakness
AIMED = (constants, masked, sharp, mixed, small_terms, branch, raises, few_kinks)
FILES = (
    linear,
    norms,
    attention,
    activations,
    losses,
    margins,
    embedding,
    convolution,
    recurrent,
    shapes,
    maths,
    matrices,
    scale,
    contract,
    returns,
    big,
    *AIMED,
)
BUGS: list[Example] = [example for file in FILES for example in file.BUGS]
