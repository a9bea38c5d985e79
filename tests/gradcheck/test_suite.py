"""The examples themselves: what is called right agrees with differences in long double, the wrong does not."""

from collections import Counter

import numpy as np
import pytest

from tests.gradcheck import bugs, nasty, truth
from tests.gradcheck.bugs import BUGS
from tests.gradcheck.example import Example
from tests.gradcheck.nasty import NASTY
from tests.gradcheck.test_catch import named  # what is big there is big here

needs_long_double = pytest.mark.skipif(not truth.HAS_LONG, reason="long double is no longer than double here")


def rights() -> list[Example]:
    """Give each right backward once: many bugs share a forward, its right backward and its arguments."""
    once = {(id(e.forward), id(e.right), id(e.args)): e for e in reversed(BUGS) if e.right is not None}
    return list(once.values())


def test_counts():
    assert len(BUGS) >= 298 + 120
    assert len(NASTY) >= 103 + 60
    assert sum(len(file.BUGS) for file in bugs.AIMED) >= 120
    assert sum(len(file.NASTY) for file in nasty.AIMED) >= 60
    # one in twenty may be inconclusive, as test_catch.py counts, and one more may be so and is decided all the same
    assert sum(bool(example.options.get("inconclusive_ok")) for example in NASTY) <= 0.05 * len(NASTY) + 1


def test_names_are_unique():
    names = Counter(example.name for example in BUGS + NASTY)
    assert [name for name, count in names.items() if count > 1] == []


def test_fields():
    for example in BUGS + NASTY:
        assert example.source
        assert example.wrong == (example in BUGS)
        assert example.wrong or example.note
        # a bug is shown either by the right backward beside it or by the clause that it breaks
        assert (example.right is not None) != ("violates" in example.options) or not example.wrong


def test_a_good_share_of_the_bugs_is_cited():
    cited = [example for example in BUGS if example.source.startswith("https://github.com/")]
    assert len(cited) >= 60
    assert all(example.source in ("typical slip", *(c.source for c in cited)) for example in BUGS)


def test_arguments_are_the_same_each_time():
    for example in BUGS + NASTY:
        assert truth.identical(tuple(example.args()), tuple(example.args())), example.name


@pytest.mark.parametrize("example", named(e for e in BUGS if e.right is not None))
def test_a_bug_differs_from_the_right_gradient(example):
    right = truth.first_call(example, example.right)[0]
    wrong = truth.first_call(example)[0]
    assert max(truth.apart(example, *pair) for pair in zip(wrong, right, strict=True)) > 1e-7


@pytest.mark.parametrize("example", named(e for e in BUGS if "violates" in e.options))
def test_a_breach_of_contract_is_one(example):
    assert example.options["violates"] in truth.violations(example)


@needs_long_double
@pytest.mark.parametrize("example", named(rights()))
def test_the_right_backward_is_right(example):
    if example.options.get("kink"):
        assert truth.subgradient_error(example, example.right) < 1e-6
    else:
        assert truth.error_of(example, example.right) < example.options.get("rtol", 1e-9)


@pytest.mark.parametrize("example", named(rights()))
def test_the_right_backward_keeps_the_contract(example):
    assert not truth.violations(example, example.right)


@needs_long_double
@pytest.mark.parametrize("example", named(NASTY))
def test_a_nasty_example_is_right(example):
    if example.options.get("kink"):
        assert truth.subgradient_error(example, example.backward) < 1e-6
    else:
        assert truth.error_of(example, example.backward) < example.options.get("rtol", 1e-9)


@pytest.mark.parametrize("example", named(NASTY))
def test_a_nasty_example_keeps_the_contract(example):
    assert not truth.violations(example)


@pytest.mark.parametrize(
    "name", ["max: ties all take the whole gradient", "max-pool: every largest element gets it all"]
)
def test_a_gradient_of_ties_outside_of_the_subdifferential(name):
    # at a tie no difference gives the gradient; along each direction it must lie between the one-sided slopes
    (example,) = [e for e in BUGS if e.name == name]
    assert truth.subgradient_error(example, example.backward) > 0.1


def test_the_differences_find_a_slip_of_a_millionth():
    # the truth must be sharper than the bugs: here it is tried on a gradient that is wrong by 1e-6
    example = Example(
        "", lambda x: (np.sin(x), x), lambda d, x: d * np.cos(x) * (1 + 1e-6), lambda: (np.ones(3),), "", True
    )
    assert truth.error_of(example, example.backward) == pytest.approx(1e-6, rel=1e-3)
