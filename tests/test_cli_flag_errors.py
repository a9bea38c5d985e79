"""Errors of npgpt.Sampling on a command line name flags."""

import pytest

from npgpt.cli.sampling import with_flags
from tests.test_cli_sample import parsed


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--top-p 1.5", "--top-p=1.5 must be a number above 0 and at most 1"),
        ("--max-new-tokens -1", "--max-new-tokens=-1 must be at least 0"),
        ("--mirostat-tau 3 --temperature 0", "--mirostat-tau has no effect at --temperature 0, which takes the "),
        ("--order stop", "--order has an unknown rule 'stop'"),
    ],
)
def test_an_error_of_a_setting_names_its_flag(words, says):
    with pytest.raises(ValueError, match=r".") as error:
        parsed(*words.split())
    assert str(error.value).startswith(says)


@pytest.mark.parametrize("quoted", ["'a stop'", '"it\'s a stop"', r"'a\'b stop'"])
def test_what_an_error_quotes_stays(quoted):
    assert with_flags(f"regex={quoted} is no regular expression") == f"--regex={quoted} is no regular expression"
