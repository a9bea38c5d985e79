"""The blind set: each right backward passes, each slip fails."""

import pytest

from npgpt.gradcheck import check_backward
from tests.gradcheck.blind import BLIND

LAYERS = {slip.name.split(":")[0]: slip.example for slip in BLIND}


def test_the_set_is_as_large_as_was_asked_for():
    assert len(BLIND) >= 60
    assert sum(slip.words is None for slip in BLIND) <= len(BLIND) / 3
    assert len({slip.name for slip in BLIND}) == len(BLIND)


@pytest.mark.parametrize("example", LAYERS.values(), ids=LAYERS)
def test_the_right_backward_passes(example):
    report = check_backward(example.forward, example.right, *example.args())
    assert report.verdict == "pass", report


@pytest.mark.parametrize("slip", BLIND, ids=lambda s: s.name)
def test_the_slip_fails(slip):
    report = check_backward(slip.example.forward, slip.example.backward, *slip.example.args())
    assert report.verdict == "fail", slip.said
