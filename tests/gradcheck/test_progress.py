"""A check's time, on a clock that only forward moves: the line on a terminal, and max_seconds."""

import io
from types import SimpleNamespace

import numpy as np
import pytest

from npgpt import check_backward
from npgpt.gradcheck import progress
from npgpt.gradcheck.progress import Clock, TimeUp, in_words

X = np.random.default_rng(3).standard_normal((30, 30))
SECOND = np.random.default_rng(4).standard_normal((3, 7))


class Terminal(io.StringIO):
    """A standard error that keeps every line that it has shown."""

    def __init__(self, terminal=True):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal

    def lines(self):
        return [line.strip() for line in self.getvalue().split("\r")]


@pytest.fixture
def time(monkeypatch):
    """Time that stands still but for `time.passes`."""

    class Time:
        now = 0.0

        def passes(self, seconds):
            self.now += seconds

    time = Time()
    monkeypatch.setattr(progress, "now", lambda: time.now)
    return time


@pytest.fixture
def err(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=terminal))  # pytest puts its own into sys
    return terminal


def slow(time, seconds=0.1):
    """Return a forward that takes so long, analytic in x."""

    def forward(x):
        time.passes(seconds)
        return x * x * x, x

    return forward


def backward(dout, x):
    return 3 * dout * x * x


def wrong(dout, x):
    return 3.03 * dout * x * x


# --- the line


def test_a_slow_check_says_how_long_it_takes_and_takes_the_line_back(time, err):
    assert check_backward(slow(time), backward, X)
    estimates = [line for line in err.lines() if line]
    # 900 elements with 2 calls of 100 ms each, until it is seen that a complex step is one call
    assert estimates[0] == "about 3 min: 900 elements x 2 calls of 100 ms"
    assert estimates[-1].endswith("of 900 elements x 1 call of 100 ms")
    assert estimates[-1].startswith("about 1 s left: ")
    left = [line.split(" left")[0] for line in estimates if " left" in line]
    assert left[0] == "about 90 s"
    *_, before, last = err.getvalue().split("\r")
    assert (before.strip(), last) == ("", "")  # the line is written over with blanks
    assert len(before) >= len(estimates[-1])


def test_nothing_is_shown_for_two_seconds(time, err):
    assert check_backward(slow(time, 0.001), backward, X)
    assert err.getvalue() == ""


@pytest.mark.parametrize(
    ("terminal", "asked", "shown"), [(True, False, False), (False, None, False), (False, True, True)]
)
def test_it_is_shown_on_a_terminal_unless_the_caller_says_otherwise(time, monkeypatch, terminal, asked, shown):
    err = Terminal(terminal)
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=err))
    assert check_backward(slow(time), backward, X, progress=asked)
    assert bool(err.getvalue()) == shown


def test_without_a_standard_error_a_check_runs(time, monkeypatch):
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=None))
    assert check_backward(slow(time), backward, X)


def test_the_line_is_taken_back_where_forward_raises(time, err):
    def forward(x):
        if time.now > 10:
            raise KeyboardInterrupt
        return slow(time)(x)

    with pytest.raises(KeyboardInterrupt):
        check_backward(forward, backward, X)
    assert "900 elements" in err.getvalue()
    assert err.getvalue().endswith("\r")


def test_a_line_is_never_wider_than_the_terminal(time, err, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    assert check_backward(slow(time), backward, X)
    assert max(map(len, err.getvalue().split("\r"))) == 19


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0012, "1.2 ms"), (0.1, "100 ms"), (1, "1 s"), (99, "99 s"), (660, "11 min"), (9000, "2.5 h")],
)
def test_times_are_said_as_people_do(seconds, words):
    assert in_words(seconds) == words


# --- max_seconds


def test_with_enough_time_the_report_is_the_same(time):
    report = check_backward(slow(time, 0.0), backward, X, max_seconds=1)
    without = check_backward(slow(time, 0.0), backward, X)
    assert report.arguments == without.arguments
    assert report.arguments[0].checked == 900


@pytest.mark.parametrize("seconds", [15, 20, 30, 60])
def test_with_less_it_looks_at_a_sample_and_says_what_that_misses(time, seconds):
    report = check_backward(slow(time), backward, X, max_seconds=seconds)
    (x,) = report.arguments
    assert time.now <= seconds + 0.1  # one call
    assert report.verdict == "pass"
    assert 0 < x.checked < 900
    assert x.escape.startswith(
        f"max_seconds={seconds}: {x.checked} of 900 elements looked at, and 4 directions through"
    )
    share = 1 - 0.05 ** (1 / x.checked)
    assert f"at most {share:.1%} of the elements are wrong" in x.escape
    assert x.escape in str(report)
    # most of the time is used
    assert time.now > seconds / 2


@pytest.mark.parametrize("seconds", [0.05, 1, 3, 6])
def test_with_too_little_it_is_never_a_pass(time, seconds):
    report = check_backward(slow(time), backward, X, max_seconds=seconds)
    assert report.verdict == "inconclusive"
    assert f"x: inconclusive: time: max_seconds={seconds} was" in str(report)
    assert time.now <= seconds + 0.3  # the calls that pose the problem are made in any case


def test_at_any_limit_a_wrong_gradient_is_no_pass(time):
    verdicts = []
    for seconds in np.geomspace(0.1, 1000, 40):
        time.now = 0.0
        verdicts.append(check_backward(slow(time), wrong, X, max_seconds=seconds).verdict)
        assert time.now <= seconds + 0.2
    assert set(verdicts) == {"inconclusive", "fail"}
    assert verdicts == sorted(verdicts, reverse=True)  # and with more time it fails


def test_one_wrong_element_is_found_along_a_direction_though_few_are_looked_at(time):
    def backward(dout, x):
        dx = 3 * dout * x * x
        dx[17, 3] *= 1.01
        return dx

    report = check_backward(slow(time), backward, X, max_seconds=40)
    (x,) = report.arguments
    assert (x.verdict, x.index) == ("fail", (17, 3))
    assert x.checked < 900


def test_a_direction_that_disagrees_is_told_if_there_is_no_time_to_find_the_element(time):
    def backward(dout, x):
        dx = 3 * dout * x * x
        dx[17, 3] *= 1.01
        return dx

    reasons = []
    for seconds in np.arange(8.0, 20.0, 0.5):
        time.now = 0.0
        (x,) = check_backward(slow(time), backward, X, max_seconds=seconds).arguments
        assert x.verdict != "pass"
        reasons.append(x.reason)
    assert any("along a direction the gradient differs from the numerical one" in reason for reason in reasons)


def test_a_nan_is_looked_at_first(time):
    """A direction would be NaN too, and say nothing."""

    def backward(dout, x):
        dx = 3 * dout * x * x
        dx[17, 3] = np.nan
        return dx

    assert check_backward(slow(time), backward, X, max_seconds=20).verdict == "fail"


def test_the_time_is_shared_among_the_arguments(time):
    def forward(x, y):
        time.passes(0.1)
        return (x * x).sum() * y, (x, y)

    def backward(dout, cache):
        x, y = cache
        return 2 * x * (dout * y).sum(), dout * (x * x).sum()

    report = check_backward(forward, backward, X, SECOND, max_seconds=60)
    x, y = report.arguments
    assert report.verdict == "pass"
    assert 0 < x.checked < 900
    assert 0 < y.checked
    assert y.escape.startswith("max_seconds=60") or y.checked == 21
    assert time.now <= 60.2


def test_what_could_not_be_settled_in_time_is_told(time):
    report = check_backward(slow(time), wrong, X, max_seconds=10)
    assert report.verdict == "inconclusive"
    assert "of the elements may be wrong" in report.arguments[0].reason


@pytest.mark.parametrize("mode", ["elements", "directions"])
def test_a_big_tensor_has_its_limit_too(time, mode):
    x = np.random.default_rng(0).standard_normal((60, 50))
    report = check_backward(slow(time), backward, x, mode=mode, max_seconds=14)
    assert report.verdict == "pass"
    assert report.arguments[0].escape.startswith(f"max_seconds=14: {report.arguments[0].checked} of 3,000 elements")
    assert time.now <= 14.1


def test_a_kink_along_with_too_little_time_is_no_failure(time):
    def forward(x):
        time.passes(0.1)
        return np.maximum(x, 0), x

    x = np.linspace(-1, 1, 41)
    for seconds in np.geomspace(1, 500, 30):
        time.now = 0.0
        assert check_backward(forward, lambda dout, x: dout * (x > 0), x, max_seconds=seconds).verdict != "fail"


def test_no_time_for_the_taylor_test_is_a_note(time):
    x = X[:2, :3]
    assert check_backward(slow(time), backward, x).taylor
    almost = time.now - 0.3
    report = check_backward(slow(time), backward, x, max_seconds=almost)
    assert (report.verdict, report.taylor) == ("pass", "")
    assert f"max_seconds={almost:g} left no time for the Taylor test" in report.notes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_seconds": 0}, "max_seconds=0 must be above 0"),
        ({"max_seconds": -1.5}, "max_seconds=-1.5 must be above 0"),
        ({"max_seconds": float("nan")}, "max_seconds=nan must be above 0"),
        ({"progress": "yes"}, "progress='yes' is not None, True or False"),
    ],
)
def test_what_is_no_time_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        check_backward(lambda x: (x, x), lambda d, x: d, X, **options)


# --- the clock by itself


def test_a_clock_without_a_task_leaves_forward_alone():
    def forward(x):
        return x, x

    assert Clock(False, None).watch(forward) is forward


def test_time_up_is_not_caught_with_what_a_forward_raises(time):
    clock = Clock(False, 1)
    forward = clock.watch(lambda: time.passes(2))
    forward()
    with pytest.raises(TimeUp):
        forward()
    assert not issubclass(TimeUp, Exception)
