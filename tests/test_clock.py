"""The clock of compiled code, and laps by op."""

import time

import numpy as np

from npgpt.kernels.clock import ADD, BACKWARD, DROPOUT, EMBED, NORM, SIZE, WAIT, lap, seconds, start
from npgpt.support.jit import jit


@jit
def now():
    return seconds()


@jit
def three_laps(laps, stamps):
    stamps[0] = seconds()
    start(laps)
    stamps[1] = seconds()
    lap(laps, NORM)
    lap(laps, BACKWARD + NORM)
    lap(laps, NORM)
    stamps[2] = seconds()


def test_compiled_code_reads_the_clock_of_perf_counter():
    for _ in range(20):
        before, between, after = time.perf_counter(), now(), time.perf_counter()
        assert before - 1e-6 <= between <= after + 1e-6  # Python may round to another nanosecond


def test_laps_add_up_to_the_time_between_the_first_and_the_last():
    laps, stamps = np.zeros(SIZE), np.zeros(3)
    laps[NORM] = 5.0  # of an earlier step
    three_laps(laps, stamps)
    used = laps[:-1].nonzero()[0].tolist()
    assert set(used) <= {NORM, BACKWARD + NORM}
    assert laps[NORM] >= 5.0
    assert (laps[:-1] >= 0).all()
    taken = laps[:-1].sum() - 5.0
    assert stamps[2] - stamps[1] - 1e-6 <= taken + 1e-6 <= stamps[2] - stamps[0] + 2e-6
    assert stamps[1] <= laps[-1] <= stamps[2]


def test_no_laps_switch_the_clock_off():
    three_laps(np.zeros(0), np.zeros(3))
    start(np.zeros(0))
    lap(np.zeros(0), WAIT)


def test_every_op_has_a_place_of_its_own():
    forward = range(EMBED, DROPOUT + 1)
    places = [*forward, *(BACKWARD + op for op in forward), ADD, WAIT]
    assert places == list(range(SIZE - 1))  # the last is the time of the last lap
