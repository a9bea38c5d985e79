"""The rules of generation: each against its formula, written another way."""

import doctest
import importlib

import pytest

FILES = ("distribution", "truncation", "penalties", "steering", "spelling", "mirostat")


@pytest.mark.parametrize("name", FILES)
def test_the_examples_are_true(name):
    assert doctest.testmod(importlib.import_module(f"npgpt.generation.rules.{name}")).failed == 0
