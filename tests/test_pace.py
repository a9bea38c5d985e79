"""The number of steps of a run with a limit on its time, by a clock that these tests turn."""

import pytest

from npgpt.training.pace import Pace


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def ran(seconds, took, closing=0.0, evaluating=0.0, guess=1000, after=lambda step: 0.0):
    """Return how many steps a run takes, and its seconds with all that follows, where step i takes took(i, seconds)."""
    clock = Clock()
    pace = Pace(seconds, clock.now, closing, evaluating, guess, None, clock)
    done, total = 0, pace(0)
    totals = [total]
    while done < total:
        clock.now += took(done, pace.used)
        done += 1
        total = max(done, pace(done))
        totals.append(total)
        clock.now += after(done)
    last = took(done, pace.used)
    return done, pace.used + closing + evaluating * last, totals


@pytest.mark.parametrize("minutes", [0.1, 0.25, 0.5, 1, 3])
@pytest.mark.parametrize("step", [0.02, 0.4])
def test_a_run_ends_in_time(minutes, step):
    done, used, totals = ran(60 * minutes, lambda i, now: step, closing=0.5, evaluating=2)
    assert abs(used - 60 * minutes) <= step + 1e-9
    assert abs(totals[3] - done) <= 1, "the first steps tell"


def test_the_first_step_may_compile():
    done, used, totals = ran(60, lambda i, now: 17.0 if i == 0 else 0.1)
    assert abs(used - 60) < 0.11
    assert done == 431
    assert abs(totals[3] - done) <= 1


def test_a_machine_that_becomes_slower_ends_in_time():
    done, used, _ = ran(60, lambda i, now: 0.1 if now < 30 else 0.2)
    assert abs(used - 60) < 0.21
    assert abs(done - 450) <= 1


def test_a_machine_that_becomes_faster_takes_more_steps():
    done, used, _ = ran(60, lambda i, now: 0.2 if now < 30 else 0.1)
    assert abs(used - 60) < 0.11
    assert abs(done - 450) <= 1


def test_a_pause_does_not_look_like_a_slow_machine():
    done, used, totals = ran(60, lambda i, now: 10.0 if i == 200 else 0.1)
    assert abs(used - 60) < 0.11
    assert abs(done - 501) <= 1
    assert min(totals[201:]) >= 500, "it costs the steps that it lasts, no more"


def test_evaluations_between_the_steps_are_counted():
    done, used, _ = ran(60, lambda i, now: 0.1, after=lambda step: 1.0 if step % 50 == 0 else 0.0)
    assert abs(used - 60) < 1.2
    assert done < 590


def test_a_time_that_is_over_before_the_first_step_leaves_at_least_one():
    done, _, _ = ran(1, lambda i, now: 5.0)
    assert 1 <= done <= 2


def test_the_guess_holds_until_steps_are_timed():
    _, _, totals = ran(60, lambda i, now: 0.1, guess=321)
    assert totals[:2] == [321, 321]
    assert totals[2] != 321


def test_a_resumed_run_has_what_is_left():
    clock = Clock()
    pace = Pace(60, clock.now - 40, 0.0, 0.0, 2000, None, clock)
    total = pace(700)
    done = 700
    while done < total:
        clock.now += 0.1
        done += 1
        total = max(done, pace(done))
    assert abs(done - 900) <= 1


def test_enough_steps_end_a_run_before_its_time():
    clock = Clock()
    pace = Pace(60, clock.now, 0.0, 0.0, 80, 80, clock)
    totals = [pace(0)]
    for done in range(1, 81):
        clock.now += 0.1
        totals.append(pace(done))
    assert set(totals) == {80}
