"""The proof of check_backward: it fails every planted bug and no correct function, and passes what can be decided."""

import pytest

from npgpt import check_backward
from tests.gradcheck.bugs import BUGS
from tests.gradcheck.bugs import big as big_bugs
from tests.gradcheck.nasty import NASTY
from tests.gradcheck.nasty import big as big_nasty
from tests.gradcheck.slips import complaint

# large arrays, and gates, whose hints take a second each
BIG = {example.name for example in (*big_bugs.BUGS, *big_nasty.NASTY)} | {
    example.name for example in BUGS if example.name.startswith(("lstm:", "gru:"))
}


FIRST = {example.name.split(":")[0]: example.name for example in reversed(BUGS)}  # one bug of each function


def named(examples):
    return [pytest.param(example, id=example.name, marks=marks(example)) for example in examples]


def marks(example):
    name = example.name
    return [pytest.mark.big] if name in BIG or FIRST.get(name.split(":")[0], name) != name else []


def check(example):
    return check_backward(example.forward, example.backward, *example.args(), **example.options.get("check", {}))


@pytest.mark.parametrize("example", named(BUGS))
def test_planted_bug_fails(example):
    report = check(example)
    # a slip that rounding hides must be named, and is never passed
    allowed = ("fail", "inconclusive") if example.options.get("hidden") else ("fail",)
    assert report.verdict in allowed, str(report)
    assert complaint(example, report) == ""  # a right hint, and none that misleads


@pytest.mark.parametrize("example", named(NASTY))
def test_nasty_but_correct_passes(example):
    report = check(example)
    allowed = ("pass", "inconclusive") if example.options.get("inconclusive_ok") else ("pass",)
    assert report.verdict in allowed, str(report)


def test_at_most_one_in_twenty_nasty_ones_is_inconclusive():
    doubtful = [example for example in NASTY if example.options.get("inconclusive_ok")]
    verdicts = [check(example).verdict for example in doubtful]
    assert verdicts.count("inconclusive") <= len(NASTY) / 20
