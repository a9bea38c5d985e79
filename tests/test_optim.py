"""AdamW and Muon by hand, the parts of them one at a time, clipping, and the schedule."""

import doctest
import math
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest

from npgpt.kernels import adamw_update, muon_update
from npgpt.optim import AdamW, Muon, muon
from npgpt.optim.muon import POLYNOMIALS, cost_of, filled, orthogonalized
from npgpt.optim.schedule import clip_grad_norm, learning_rate_at
from npgpt.support.parameters import Parameters

SHAPES = {"matrix": (2, 3), "vector": (3,)}


def parameters(values=None):
    flat = np.arange(1.0, 10.0) if values is None else np.asarray(values, float)
    return Parameters(SHAPES, flat.copy())


def test_adamw_by_hand():
    params = parameters()
    optimizer = AdamW(params, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.1)
    rng = np.random.default_rng(0)
    want, m, v = params.flat.copy(), np.zeros(9), np.zeros(9)
    for t in range(1, 6):
        grads = parameters(rng.standard_normal(9))
        optimizer.step(grads, lr=0.01 * t)
        for i, g in enumerate(grads.flat):
            decay = 0.1 if i < 6 else 0.0  # the matrix has six elements
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.99 * v[i] + 0.01 * g * g
            want[i] -= 0.01 * t * decay * want[i]
            want[i] -= 0.01 * t * (m[i] / (1 - 0.9**t)) / (math.sqrt(v[i] / (1 - 0.99**t)) + 1e-8)
    np.testing.assert_allclose(params.flat, want, rtol=1e-13)


def test_the_first_step_has_the_length_of_the_learning_rate():
    # bias correction makes the first averages the gradient itself, so the step is lr * sign(gradient)
    params = parameters(np.zeros(9))
    AdamW(params, weight_decay=0).step(parameters([3, -3, 1e-3, -1e-3, 5, 5, 5, 5, 5]), lr=0.5)
    np.testing.assert_allclose(params.flat, [-0.5, 0.5, -0.5, 0.5] + [-0.5] * 5, rtol=1e-4)


def test_weight_decay_is_for_matrices_alone():
    params = parameters()
    AdamW(params, weight_decay=0.5).step(parameters(np.zeros(9)), lr=0.1)
    np.testing.assert_allclose(params["matrix"].ravel(), np.arange(1.0, 7.0) * 0.95, rtol=1e-15)
    np.testing.assert_array_equal(params["vector"], [7, 8, 9])


def test_adamw_leaves_gradients_and_dtype_alone():
    params = Parameters(SHAPES, np.ones(9, np.float32))
    grads = Parameters(SHAPES, np.full(9, 2, np.float32))
    optimizer = AdamW(params)
    optimizer.step(grads, lr=0.1)
    np.testing.assert_array_equal(grads.flat, 2)
    assert params.flat.dtype == optimizer.exp_avg.flat.dtype == optimizer.exp_avg_sq.flat.dtype == np.float32


def test_clipping_scales_to_the_norm_and_returns_the_old_one():
    grads = parameters([3, 4, 0, 0, 0, 0, 0, 0, 12])
    assert clip_grad_norm(grads, 6.5) == 13
    np.testing.assert_allclose(np.linalg.norm(grads.flat), 6.5, rtol=1e-6)
    np.testing.assert_allclose(grads.flat[:2], [1.5, 2], rtol=1e-6)


@pytest.mark.parametrize("limit", [13.1, 100.0, 0.0])
def test_a_norm_within_the_limit_is_left_alone(limit):
    grads = parameters([3, 4, 0, 0, 0, 0, 0, 0, 12])
    assert clip_grad_norm(grads, limit) == 13
    np.testing.assert_array_equal(grads.flat, [3, 4, 0, 0, 0, 0, 0, 0, 12])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_clipping_hides_no_nan(bad):
    grads = parameters([bad, 1, 1, 1, 1, 1, 1, 1, 1])
    with np.errstate(invalid="ignore"):
        assert not math.isfinite(clip_grad_norm(grads, 1.0))
    assert np.isnan(grads.flat[0])
    assert not (grads.flat[1:] == 1).any()  # the others do not take an unclipped step as if nothing were


def test_schedule():
    lr = [learning_rate_at(step, 1.0, 0.1, 10, 110) for step in range(110)]
    np.testing.assert_allclose(lr[:10], np.arange(1, 11) / 11)
    assert lr[10] == 1.0
    assert lr[60] == pytest.approx(0.55)  # half way down the cosine
    assert lr[35] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert (np.diff(lr[10:]) < 0).all()
    assert lr[-1] == pytest.approx(0.1, abs=1e-3)
    assert learning_rate_at(500, 1.0, 0.1, 10, 110) == pytest.approx(0.1)


def test_a_line_falls_from_the_peak_after_the_warm_up_to_min_lr_after_the_last_step():
    lr = [learning_rate_at(step, 1.0, 0.1, 10, 110, "linear") for step in range(111)]
    np.testing.assert_allclose(lr[:10], np.arange(1, 11) / 11)
    np.testing.assert_allclose(lr[10:], np.linspace(1.0, 0.1, 101))
    assert learning_rate_at(500, 1.0, 0.1, 10, 110, "linear") == 0.1


def test_a_trapezoid_is_constant_until_its_line():
    lr = [learning_rate_at(step, 1.0, 0.1, 10, 110, "trapezoid", 0.2) for step in range(111)]
    np.testing.assert_allclose(lr[:10], np.arange(1, 11) / 11)
    assert lr[10:89] == [1.0] * 79
    np.testing.assert_allclose(lr[88:], np.linspace(1.0, 0.1, 23))
    assert learning_rate_at(500, 1.0, 0.1, 10, 110, "trapezoid", 0.2) == 0.1


def test_a_constant_rate_does_not_depend_on_the_number_of_steps():
    rates = {learning_rate_at(step, 0.3, 0.0, 5, total, "trapezoid") for total in (50, 80) for step in range(5, 30)}
    assert rates == {0.3}


def test_a_trapezoid_that_falls_all_the_time_is_a_line():
    for share in (0.91, 1.0):  # the warm-up is not part of it
        for step in range(110):
            line = learning_rate_at(step, 1.0, 0.1, 10, 110, "linear")
            assert learning_rate_at(step, 1.0, 0.1, 10, 110, "trapezoid", share) == line


@pytest.mark.parametrize("schedule", ["cosine", "linear", "trapezoid"])
@pytest.mark.parametrize("steps", [1, 2, 3, 40])
def test_no_step_is_lost_to_a_rate_of_zero(schedule, steps):
    for warmup in {0, 1, steps // 10}:
        rates = [learning_rate_at(step, 1.0, 0.0, warmup, steps, schedule, 0.3) for step in range(steps)]
        assert all(0 < rate <= 1 for rate in rates)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="'step' must be cosine, linear or trapezoid"):
        learning_rate_at(5, 1.0, 0.1, 0, 10, "step")


def test_schedule_without_warmup_or_shorter_than_it():
    assert learning_rate_at(0, 1.0, 0.1, 0, 1) == 1.0
    assert learning_rate_at(4, 1.0, 0.1, 100, 5) == pytest.approx(5 / 101)


# --- Muon


MATRICES = {"h.0.attn.c_attn.weight": 3, "h.0.mlp.c_fc.weight": 1}


def blocks():
    """Parameters with two matrices of a block of one shape, one of which makes query, key and value, and others."""
    shapes = {
        "wte.weight": (5, 2),
        "h.0.attn.c_attn.weight": (2, 6),
        "h.0.mlp.c_fc.weight": (2, 6),
        "h.0.ln_1.weight": (2,),
    }
    rng = np.random.default_rng(0)
    size = 10 + 12 + 12 + 2
    return Parameters(shapes, rng.standard_normal(size)), Parameters(shapes, rng.standard_normal(size))


def matrix_of(shape, values, seed=1):
    """Return a matrix with these singular values, and its singular vectors."""
    rng, n = np.random.default_rng(seed), len(values)
    u, v = np.linalg.qr(rng.standard_normal((shape[0], n)))[0], np.linalg.qr(rng.standard_normal((shape[1], n)))[0]
    return (u * values) @ v.T, u, v


@pytest.mark.parametrize("shape", [(4, 4), (16, 64), (64, 16), (1, 5)])
def test_orthogonalized_keeps_the_singular_vectors_and_brings_the_values_near_one(shape):
    # divided by the root of the sum of their eighth powers, they are all above 0.005
    matrix, u, v = matrix_of(shape, np.geomspace(1, 0.01, min(shape)))
    found = u.T @ orthogonalized(matrix) @ v
    np.testing.assert_allclose(found, np.diag(np.diag(found)), atol=1e-12)
    assert (np.diag(found) > 0.504).all()
    assert (np.diag(found) < 1.496).all()


def test_what_the_docstring_of_orthogonalized_says_is_true():
    assert doctest.testmod(muon).failed == 0
    values = np.geomspace(0.005, 1, 2000)
    for a, b, c in POLYNOMIALS:
        values = a * values + b * values**3 + c * values**5
    assert (round(values.min(), 2), round(values.max(), 2)) == (0.5, 1.5)


@pytest.mark.parametrize("shape", [(4, 4), (3, 8), (8, 3), (1, 5)])
def test_orthogonalized_is_its_formula(shape):
    matrix = np.random.default_rng(1).standard_normal(shape)
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    s /= (s**8).sum() ** (1 / 8)
    for a, b, c in POLYNOMIALS:
        s = a * s + b * s**3 + c * s**5
    before = matrix.copy()
    np.testing.assert_allclose(orthogonalized(matrix), (u * s) @ v, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(matrix, before)


def test_each_polynomial_is_the_best_for_what_the_one_before_it_leaves():
    """Its largest errors on the interval are equal, with signs that alternate: four, for three coefficients."""
    low, high = 0.005, 1.0
    for a, b, c in POLYNOMIALS:
        # where the slope a + 3 b x^2 + 5 c x^4 is zero
        inside = [math.sqrt(root) for root in np.roots([5 * c, 3 * b, a])[::-1]]
        errors = [a * x + b * x**3 + c * x**5 - 1 for x in (low, *inside, high)]
        np.testing.assert_allclose(errors, errors[3] * np.array([-1, 1, -1, 1]), rtol=5e-3)  # of five digits
        low, high = 1 - errors[3], 1 + errors[3]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_orthogonalized_leaves_zeros_and_dtype_alone_and_shows_nan(dtype):
    assert not orthogonalized(np.zeros((3, 4), dtype)).any()
    assert orthogonalized(np.ones((3, 4), dtype)).dtype == dtype
    matrix = np.ones((3, 4), dtype)
    matrix[1, 2] = np.nan
    assert np.isnan(orthogonalized(matrix)).all()


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_the_size_of_a_matrix_does_not_change_what_it_becomes(size):
    matrix = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
    np.testing.assert_allclose(orthogonalized(matrix * np.float32(size)), orthogonalized(matrix), rtol=1e-4, atol=1e-5)


def test_muon_by_hand():
    params, _ = blocks()
    optimizer = Muon(params, MATRICES, weight_decay=0.5)
    rng = np.random.default_rng(2)
    want = {name: array.copy() for name, array in params.items()}
    average = {name: np.zeros_like(array) for name, array in want.items()}
    for lr in (0.1, 0.2, 0.05):
        grads = Parameters(params.shapes, rng.standard_normal(params.flat.size))
        optimizer.step(grads, lr, scale=0.5)
        for name, count, longest in (("h.0.attn.c_attn.weight", 3, 2), ("h.0.mlp.c_fc.weight", 1, 6)):
            average[name] = 0.95 * average[name] + 0.05 * 0.5 * grads[name]
            ahead = 0.95 * average[name] + 0.05 * 0.5 * grads[name]
            turned = np.hstack([orthogonalized(part) for part in np.split(ahead, count, axis=1)])
            want[name] = (1 - lr * 0.5) * want[name] - lr * 0.2 * math.sqrt(longest) * turned
    for name in ("h.0.attn.c_attn.weight", "h.0.mlp.c_fc.weight"):
        # five iterations make a difference of one rounding in the average some hundred times as large
        np.testing.assert_allclose(params[name], want[name], rtol=1e-11)
        np.testing.assert_allclose(optimizer.exp_avg[name], average[name], rtol=1e-13)
    assert set(optimizer.state["exp_avg."]) == set(params.shapes)
    assert set(optimizer.state["exp_avg_sq."]) == {"wte.weight", "h.0.ln_1.weight"}  # Muon has no second average


def test_muon_leaves_the_rest_to_adamw_without_decay():
    params, grads = blocks()
    others = blocks()[0]
    Muon(params, MATRICES, weight_decay=0.5).step(grads, 0.1)
    AdamW(others, weight_decay=0).step(grads, 0.1)
    for name in ("wte.weight", "h.0.ln_1.weight"):
        np.testing.assert_array_equal(params[name], others[name])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("parts", [2, 3, 5, 50])
@pytest.mark.parametrize("without", [(), ("wte.weight",), ("h.0.attn.c_attn.weight", "h.0.ln_1.weight")])
@pytest.mark.parametrize("kind", ["AdamW", "Muon"])
def test_a_step_in_parts_is_the_same_step(kind, without, parts, dtype):
    def make():
        params = Parameters(blocks()[0].shapes, blocks()[0].flat.astype(dtype))
        if kind == "AdamW":
            return AdamW(params, update=adamw_update, without=without)
        return Muon(params, MATRICES, update=adamw_update, without=without, update_matrices=muon_update)

    whole, parted = make(), make()
    grads = Parameters(whole.params.shapes, blocks()[1].flat.astype(dtype))
    for _ in range(3):
        whole.step(grads, 0.1)
        parted.step(grads, 0.1, parts=parts)
    np.testing.assert_array_equal(parted.params.flat, whole.params.flat)
    np.testing.assert_array_equal(parted.exp_avg.flat, whole.exp_avg.flat)


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7])
def test_the_parts_of_a_step_of_muon_cost_the_same_where_matrices_allow_it(parts):
    shapes = {f"h.{i}.attn.c_attn.weight": (8, 24) for i in range(6)} | {
        f"h.{i}.mlp.c_proj.weight": (32, 8) for i in range(6)
    }
    params = Parameters({"wte.weight": (100, 8), **shapes}, np.zeros(800 + 6 * 192 + 6 * 256))
    optimizer = Muon(params, {name: 3 if "attn" in name else 1 for name in shapes})
    optimizer.step(params, 0.1, parts=parts)
    found = [at for share in optimizer.shares for at in share.places[:, 0].tolist()]
    assert len(found) == len(set(found)) == 6 * 3 + 6
    rests = [share.rest for share in optimizer.shares]
    assert rests[0].start == 0
    assert rests[-1].stop == 800
    assert all(before.stop == after.start for before, after in pairwise(rests))
    costs = [sum(cost_of(m, n) for m, n in share.places[:, 3:].tolist()) for share in optimizer.shares]
    assert max(costs) - min(costs) <= cost_of(8, 8)  # the cheapest matrices come last
    numbers = [rest.stop - rest.start for rest in rests]
    by_cost = [number for _, number in sorted(zip(costs, numbers, strict=True))]
    assert all(after <= before + 1 for before, after in pairwise(by_cost))  # one by rounding


def test_what_is_poured_fills_the_lowest_levels():
    assert filled([5, 1, 2], 3) == [0, 2, 1]
    assert filled([5, 1, 2], 0.5) == [0, 0.5, 0]
    assert filled([5, 1, 2], 10) == [1, 5, 4]
    assert filled([5, 1, 2], 0) == [0, 0, 0]
    assert filled([3], 2) == [2]


@pytest.mark.parametrize("parts", [1, 3])
def test_a_second_step_of_muon_allocates_no_matrix(parts):
    shapes = {
        "h.0.attn.c_attn.weight": (256, 768),
        "h.0.mlp.c_fc.weight": (256, 512),
        "h.0.mlp.c_proj.weight": (512, 256),
    }
    params = Parameters(shapes, np.ones(256 * 1792, np.float32))
    counts = {name: 3 if "attn" in name else 1 for name in shapes}
    optimizer = Muon(params, counts, update_matrices=muon_update)
    optimizer.step(params, 0.1, parts=parts)
    tracemalloc.start()
    optimizer.step(params, 0.1, parts=parts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000
