"""Planted bugs: each a backward that is wrong, and where it is known, the report of the one who met it."""

from tests.gradcheck.bugs import (
    activations,
    attention,
    big,
    contract,
    convolution,
    embedding,
    linear,
    losses,
    margins,
    maths,
    matrices,
    norms,
    recurrent,
    returns,
    scale,
    shapes,
)
from tests.gradcheck.example import Example

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
)
BUGS: list[Example] = [example for file in FILES for example in file.BUGS]
