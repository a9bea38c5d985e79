"""Big arrays: what a check that does not look at every element still finds, and what it says may have escaped it."""

import re

import numpy as np
import pytest

from npgpt import check_backward
from npgpt.gradcheck.elements import DIRECTIONS, ESCAPE, sample
from tests.conftest import mostly_big

N = 50_000
ROWS, COLUMNS = 250, 200


def sine(x):
    return np.sin(x), x


def spoiled(change):
    """Return a backward of sine whose gradient is changed by a function of it, in place."""

    def backward(dout, x):
        dx = dout * np.cos(x)
        change(dx)
        return dx

    return backward


def array(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def check(change, *shape, **options):
    (found,) = check_backward(sine, spoiled(change), array(*shape), **options).arguments
    return found


@pytest.mark.parametrize("shape", [(N,), (10, 5, 1000)])
def test_a_right_gradient_passes_and_says_what_could_have_escaped(shape):
    found = check(lambda dx: None, *shape)
    assert found.verdict == "pass"
    assert found.size == N
    assert found.checked < 200
    assert f"{found.checked} of {N:,} elements looked at" in found.escape
    assert f"{DIRECTIONS} directions through all" in found.escape


@pytest.mark.parametrize(
    ("index", "factor"),
    mostly_big([(0, 0.0), (17, -1.0), (31_415, 1.001), (N - 1, 0.0)], (31_415, 1.001).__eq__),
)
def test_one_wrong_element_is_found_and_named(index, factor):
    def change(dx):
        dx[index] *= factor

    found = check(change, N)
    assert found.verdict == "fail"
    assert found.index == (index,)
    assert found.analytic / found.numeric == pytest.approx(factor, abs=1e-6)


@pytest.mark.big
def test_one_small_error_in_one_element_of_a_matrix_is_found():
    """1e-6 of one gradient of order one, beside 50,000 others: their roundings together are some 1e-11."""

    def change(dx):
        dx[123, 45] += 1e-6

    found = check(change, ROWS, COLUMNS)
    assert found.verdict == "fail"
    assert found.index == (123, 45)


def test_a_nan_in_one_element_is_found():
    def change(dx):
        dx[23, 45] = np.nan

    found = check(change, 40, 50)
    assert found.verdict == "fail"
    assert found.index == (23, 45)


STRIPES = {
    "the sign of a row of 50,000 elements": ((ROWS, COLUMNS), np.s_[77], -1.0, 0, 77),
    "a column, by a thousandth": ((80, 40), np.s_[:, 31], 1.001, 1, 31),
    "the first row": ((80, 40), np.s_[0], 0.0, 0, 0),
    "the last column": ((80, 40), np.s_[:, -1], 0.0, 1, 39),
}


@pytest.mark.parametrize("name", STRIPES)
def test_a_wrong_stripe_is_found_and_an_element_of_it_named(name):
    shape, where, factor, axis, place = STRIPES[name]

    def change(dx):
        dx[where] *= factor

    found = check(change, *shape)
    assert found.verdict == "fail"
    assert found.index[axis] == place
    assert found.analytic / found.numeric == pytest.approx(factor, abs=1e-6)


def test_errors_that_cancel_in_a_sum_are_found():
    """A direction of ones would add them up to nothing."""

    def change(dx):
        dx[10, :] += 0.1
        dx[20, :] -= 0.1

    found = check(change, 50, 40)
    assert found.verdict == "fail"
    assert found.index[0] in (10, 20)


def test_two_elements_swapped_are_found():
    def change(dx):
        dx[[400, 4000]] = dx[[4000, 400]]

    found = check(change, 5000)
    assert found.verdict == "fail"
    assert found.index in ((400,), (4000,))


@pytest.mark.parametrize("seed", range(10))
def test_the_seed_does_not_matter(seed):
    def change(dx):
        dx[1415] *= 1.01

    found = check(change, 2000, rng=np.random.default_rng(seed))
    assert found.verdict == "fail"
    assert found.index == (1415,)


def test_where_differences_alone_can_be_taken_an_element_is_found_too():
    """An absolute value is not analytic: its complex step is wrong, and must be noticed."""

    def forward(x):
        return np.sqrt(x * np.conj(np.abs(x)) * np.sign(x)) * 1.0 + np.abs(x), x

    for wrong in (1.0, 1.05):

        def backward(dout, x, wrong=wrong):
            dx = 2 * dout * np.sign(x)
            dx[4321] *= wrong
            return dx

        x = array(5000)
        x = x + 0.01 * np.sign(x)  # away from the kink at 0
        (found,) = check_backward(forward, backward, x).arguments
        assert found.method == "differences"
        assert found.verdict == ("pass" if wrong == 1 else "fail"), found
        assert wrong == 1 or found.index == (4321,)


def test_kinks_within_a_big_array_do_not_fail_it():
    x = array(90, 20)
    x[5, 6] = x[77, 8] = 0.0  # relu has its kink there, and its backward takes 0, a slope between those of the sides
    report = check_backward(lambda x: (np.maximum(x, 0), x), lambda d, x: d * (x > 0), x)
    assert report.verdict == "pass", str(report)
    report = check_backward(lambda x: (np.maximum(x, 0), x), lambda d, x: d * (x > 0) + 3 * (x == 0), x)
    assert report.verdict == "fail"
    assert report.arguments[0].index in ((5, 6), (77, 8))


# --- the bound


def parse(escape):
    found = re.search(r"at 95%, at most ([\d.]+)% of the elements are wrong, and together by at most (\S+) of", escape)
    return float(found[1]) / 100, float(found[2])


def test_the_share_that_is_printed_is_the_one_that_95_percent_of_samples_would_have_met():
    """With exactly the printed share wrong, samples as the checker draws them must find one 95 times in 100."""
    found = check(lambda dx: None, N)
    share, _ = parse(found.escape)
    # printed to a tenth of a per cent; 0.05 ** (1 / n) is what 1 - share must be
    assert share == pytest.approx(1 - ESCAPE ** (1 / found.checked), abs=6e-4)
    rng = np.random.default_rng(1)
    missed, trials = 0, 400
    for _ in range(trials):
        wrong = np.zeros(N, dtype=bool)
        wrong[rng.choice(N, round(share * N), replace=False)] = True
        missed += not wrong[sample((N,), [], 64, rng)].any()
    # 5% of 400 is 20, with a standard error of 4.4: three of them, and a little for the rounding of the print
    assert missed <= 35
    assert missed >= 5  # a bound that could be far lower would be no news


def test_the_share_holds_where_the_wrong_ones_lie_in_one_stretch():
    found = check(lambda dx: None, N)
    share, _ = parse(found.escape)
    rng = np.random.default_rng(1)
    missed, trials = 0, 400
    for _ in range(trials):
        start = rng.integers(N)
        wrong = (np.arange(N) - start) % N < round(share * N)
        missed += not wrong[sample((N,), [], 64, rng)].any()
    # one from each of 64 equal parts: a stretch of 1/28 of the array holds at least one whole part
    assert missed == 0


@pytest.mark.big
def test_the_error_that_is_printed_holds_for_the_directions():
    """Errors of the printed size and above are seen in 95 of 100 checks, whatever their pattern."""
    shape = (30, 20)
    clean = check(lambda dx: None, *shape, mode="directions")
    _, blind = parse(clean.escape)
    x = array(*shape)
    rng = np.random.default_rng(2)
    missed, trials = 0, 40
    for seed in range(trials):
        error = rng.standard_normal(shape) * (rng.random(shape) < 0.5 ** rng.integers(0, 8))
        error.flat[rng.integers(error.size)] += 1

        def change(dx, error=error):
            # twice the size, because it is printed with one digit
            dx += error / np.linalg.norm(error) * 2 * blind * np.linalg.norm(dx)

        missed += bool(check_backward(sine, spoiled(change), x, mode="directions", rng=np.random.default_rng(seed)))
    assert missed <= 6  # 5% of 40 is 2, with a standard error of 1.4: three of them


# --- what is sampled


def test_samples_hold_edges_parts_and_the_rows_of_ids():
    rng = np.random.default_rng(0)
    ids = np.array([[7, 199, 7], [7, 199, 42]])
    chosen = sample((ROWS, COLUMNS), [ids, np.ones(3)], 64, rng)
    assert len(np.unique(chosen)) == len(chosen)
    assert chosen.min() >= 0
    assert chosen.max() < N
    rows = set((chosen // COLUMNS).tolist())
    assert {0, ROWS - 1, 7, 199, 42} <= rows
    # one in each of 64 equal parts
    assert len(set((chosen * 64 // N).tolist())) == 64


@pytest.mark.parametrize("shape", [(), (1,), (2,), (5, 1), (1, 7), (3, 3, 3), (63,), (64,), (65,), (1001,), (7, 143)])
def test_samples_stay_inside(shape):
    chosen = sample(shape, [np.array([-1, 0, 10**6])], 64, np.random.default_rng(0))
    assert chosen.min() >= 0
    assert chosen.max() < np.prod(shape)


def test_the_rows_of_an_embedding_that_ids_touch_are_looked_at():
    table, ids = array(5000, 10), np.array([[3, 4321, 3], [17, 4321, 3]])

    def forward(ids, table):
        return table[ids], (ids, table.shape)

    def right(dout, cache):
        ids, shape = cache
        dtable = np.zeros(shape)
        np.add.at(dtable, ids, dout)
        return dtable

    def repeats_dropped(dout, cache):
        ids, shape = cache
        dtable = np.zeros(shape)
        dtable[ids] += dout
        return dtable

    assert check_backward(forward, right, ids, table).verdict == "pass"
    report = check_backward(forward, repeats_dropped, ids, table)
    assert report.verdict == "fail"
    assert report.arguments[0].index[0] in (3, 4321)
    assert "add up repeats" in report.arguments[0].hint
    looked = np.isfinite(report.arguments[0].difference).any(axis=1)
    assert looked[[3, 17, 4321]].all()


# --- modes


def test_mode_elements_looks_at_each():
    found = check(lambda dx: None, 40, 50, mode="elements")
    assert (found.checked, found.size, found.escape) == (2000, 2000, "")
    found = check(lambda dx: None, 40, 50)
    assert found.checked < 200


def test_mode_directions_samples_small_arrays_too():
    found = check(lambda dx: None, 30, 30, mode="directions")
    assert found.checked < 200
    assert found.escape
    assert check(lambda dx: None, 30, 30).checked == 900

    def change(dx):
        dx[13, 14] *= 1.01

    assert check(change, 30, 30, mode="directions").index == (13, 14)


def test_an_array_that_was_sampled_as_a_whole_leaves_nothing_to_escape():
    found = check(lambda dx: None, 3, mode="directions")
    assert (found.checked, found.escape) == (3, "")


def test_a_bad_mode():
    with pytest.raises(ValueError, match="mode='fast' is not one of auto, elements, directions"):
        check(lambda dx: None, 3, mode="fast")


def test_no_nonsense_is_printed_of_a_failed_sample():
    def change(dx):
        dx *= 1.5

    found = check(change, 2000)
    assert found.escape == ""
    assert "every element is 1.5 times" in found.hint


@pytest.mark.parametrize("seed", range(1, 6))
def test_ties_that_together_claim_too_much_fail_for_each_seed(seed):
    # each of four that tie for a maximum may claim all of it, but not all of them at once
    x = np.abs(array(600, 4, seed=422))
    x[::60] = 0

    def forward(x):
        return x.max(axis=1), x == x.max(axis=1, keepdims=True)

    report = check_backward(forward, lambda dout, ties: dout[:, None] * ties, x, rng=np.random.default_rng(seed))
    assert report.verdict == "fail"
