"""Correct functions that are nasty to check: a tool that fails one of them cries wolf."""

from tests.gradcheck.example import Example
from tests.gradcheck.nasty import big, curved, forms, kinks, scale, unsuited, zeros

FILES = (kinks, scale, zeros, curved, forms, unsuited, big)
NASTY: list[Example] = [example for file in FILES for example in file.NASTY]
