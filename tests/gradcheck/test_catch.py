"""The proof of check_backward: it fails every planted bug and no correct function, and passes what can be decided."""

import pytest

from npgpt import check_backward
from tests.gradcheck.bugs import BUGS
from tests.gradcheck.bugs import big as big_bugs
from tests.gradcheck.nasty import NASTY
from tests.gradcheck.nasty import big as big_nasty

BIG = {example.name for example in (*big_bugs.BUGS, *big_nasty.NASTY)}


def named(examples):
    return [
        pytest.param(example, id=example.name, marks=[pytest.mark.big] if example.name in BIG else [])
        for example in examples
    ]


@pytest.mark.parametrize("example", named(BUGS))
def test_planted_bug_fails(example):
    report = check_backward(example.forward, example.backward, *example.args())
    assert report.verdict == "fail", str(report)


@pytest.mark.parametrize("example", named(NASTY))
def test_nasty_but_correct_passes(example):
    report = check_backward(example.forward, example.backward, *example.args())
    allowed = ("pass", "inconclusive") if example.options.get("inconclusive_ok") else ("pass",)
    assert report.verdict in allowed, str(report)


def test_at_most_one_in_twenty_nasty_ones_is_inconclusive():
    doubtful = [example for example in NASTY if example.options.get("inconclusive_ok")]
    verdicts = [check_backward(e.forward, e.backward, *e.args()).verdict for e in doubtful]
    assert verdicts.count("inconclusive") <= len(NASTY) / 20
