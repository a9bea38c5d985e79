"""Cosine similarity, KL divergence and label smoothing: their formulas written another way, and their edges."""

import math

import numpy as np
import pytest

from npgpt.layers.distributions import teacher_masses
from npgpt.ops import FAST, REFERENCE

OPS = {"reference": REFERENCE, "fast": FAST}
both_ops = pytest.mark.parametrize("ops", OPS.values(), ids=[f"-{name}" for name in OPS])
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def softmax(row, T=1.0):
    weights = [math.exp(v / T) for v in row]
    return [w / sum(weights) for w in weights]


def divergence(student, teacher, T):
    q, p = softmax(student, T), softmax(teacher, T)
    return T * T * sum(b * math.log(b / a) for a, b in zip(q, p, strict=True))


# --- cosine


@both_ops
def test_cosine_value(rng, ops):
    a, b = rng.standard_normal((2, 3, 4))
    out, _ = ops.cosine_forward(a, b)
    for x, y, got in zip(a, b, out, strict=True):
        assert got == pytest.approx(math.fsum(x * y) / math.hypot(*x) / math.hypot(*y), rel=1e-13)
    assert ops.cosine_forward(np.array([3.0, 4.0]), np.array([1.0, 0.0]))[0] == pytest.approx(0.6, rel=1e-15)


@both_ops
def test_lengths_do_not_matter_and_the_gradient_is_at_right_angles(rng, ops):
    a, b, dout = rng.standard_normal((3, 5)), rng.standard_normal((3, 5)), rng.standard_normal(3)
    out, cache = ops.cosine_forward(a, b)
    np.testing.assert_allclose(ops.cosine_forward(1e3 * a, 1e-3 * b)[0], out, rtol=1e-13)
    da, db = ops.cosine_backward(dout, cache)
    # a sum of five products of order one that cancel
    np.testing.assert_allclose((da * a).sum(-1), np.zeros(3), atol=1e-14)
    np.testing.assert_allclose((db * b).sum(-1), np.zeros(3), atol=1e-14)
    assert np.abs(da).min(axis=0).max() > 1e-3


@both_ops
@both_dtypes
def test_cosine_of_a_vector_that_is_zero(ops, dtype):
    a, b = np.array([[0, 0], [3, 4], [0, 0]], dtype), np.array([[3, 4], [0, 0], [0, 0]], dtype)
    out, cache = ops.cosine_forward(a, b)
    np.testing.assert_array_equal(out, np.zeros(3, dtype))
    da, db = ops.cosine_backward(np.array([2, 2, 2], dtype), cache)
    # dout * (b / |b|) / eps, as PyTorch has it
    steep = np.array([0.6, 0.8]) * 2 / 1e-8
    np.testing.assert_allclose(da, [steep, [0, 0], [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(db, [[0, 0], steep, [0, 0]], rtol=1e-6)


@both_ops
def test_a_vector_below_eps_is_divided_by_eps(ops):
    a, b = np.array([3e-3, 4e-3]), np.array([1.0, 0.0])
    out, cache = ops.cosine_forward(a, b, 0.01)
    assert out == pytest.approx(0.3, rel=1e-14)
    da, _ = ops.cosine_backward(np.float64(1), cache)
    np.testing.assert_allclose(da, [100, 0], rtol=1e-14)
    # at eps itself its own length counts
    _, cache = ops.cosine_forward(np.array([0.0, 0.5]), b, 0.5)
    np.testing.assert_array_equal(ops.cosine_backward(np.float64(1), cache)[0], [2, 0])
    _, cache = ops.cosine_forward(np.array([0.5, 0.0]), b, 0.5)
    np.testing.assert_array_equal(ops.cosine_backward(np.float64(1), cache)[0], [0, 0])
    _, cache = ops.cosine_forward(b, np.array([0.5, 0.0]), 0.5)
    np.testing.assert_array_equal(ops.cosine_backward(np.float64(1), cache)[1], [0, 0])


@both_ops
@pytest.mark.parametrize("layer", ["cosine", "kl"])
def test_nothing_is_broadcast(ops, layer):
    with pytest.raises(ValueError, match=r"one shape, got \(2, 3\) and \(3,\)"):
        getattr(ops, f"{layer}_forward")(np.ones((2, 3)), np.ones(3))


# --- KL divergence


@both_ops
@pytest.mark.parametrize("T", [1.0, 0.5, 3.0])
def test_kl_value(rng, ops, T):
    student, teacher = 2 * rng.standard_normal((2, 3, 4, 5))
    targets = np.array([[-1, 0, 2, 1], [0, -1, -1, 4], [1, 1, 1, -1]])
    loss, _ = ops.kl_forward(student, teacher, T, targets, ignore_index=-1)
    each = [divergence(student[i], teacher[i], T) for i in np.ndindex(3, 4) if targets[i] != -1]
    assert loss == pytest.approx(sum(each) / 8, rel=1e-12)
    loss, _ = ops.kl_forward(student, teacher, T)
    assert loss == pytest.approx(np.mean([divergence(student[i], teacher[i], T) for i in np.ndindex(3, 4)]), rel=1e-12)
    assert loss > 0.1


@both_ops
def test_the_example_of_kl(ops):
    loss, cache = ops.kl_forward(np.zeros(2), np.array([math.log(3), 0]))
    assert loss == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-14)
    dlogits, dteacher = ops.kl_backward(2.0, cache)  # of the one position
    np.testing.assert_allclose(dlogits, [-0.5, 0.5], rtol=1e-14)
    steep = 2 * 0.75 * (math.log(1.5) - loss)
    np.testing.assert_allclose(dteacher, [steep, -steep], rtol=1e-13)


@both_ops
@both_dtypes
@pytest.mark.parametrize("T", [1.0, 2.7])
def test_kl_of_equal_logits_is_nothing(rng, dtype, T, ops):
    logits = (5 * rng.standard_normal((3, 300))).astype(dtype)
    loss, cache = ops.kl_forward(logits, logits.copy(), T)
    assert loss == 0
    assert loss.dtype == dtype
    for grad in ops.kl_backward(dtype(3), cache):
        np.testing.assert_array_equal(grad, np.zeros((3, 300), dtype))


@both_ops
@both_dtypes
def test_kl_of_extreme_logits(dtype, ops):
    student = np.array([[1e4, -1e4, 0], [0, 1e4, 0], [-1e4, -1e4, -1e4]], dtype)
    teacher = np.array([[1e4, 0, -1e4], [1e4, 0, 0], [1e4, 1e4, 1e4]], dtype)
    loss, cache = ops.kl_forward(student, teacher)
    assert loss == pytest.approx(1e4 / 3, rel=1e-6)  # where the teacher is sure of what the student rules out
    dlogits, dteacher = ops.kl_backward(dtype(3), cache)
    np.testing.assert_allclose(dlogits, [[0, 0, 0], [-1, 1, 0], [0, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(dteacher, np.zeros((3, 3)), atol=1e-2)  # of numbers of 1e4 that cancel


@both_ops
@pytest.mark.parametrize("name", ["kl", "kl_topk"])
def test_positions_that_do_not_count_get_nothing(rng, name, ops):
    logits = rng.standard_normal((2, 3, 5))
    targets = np.array([[-100, 1, 2], [0, -100, -100]])
    if name == "kl":
        rest = [rng.standard_normal((2, 3, 5))]
    else:
        rest = [np.tile([1, 4], (2, 3, 1)), np.log(np.tile([0.5, 0.2], (2, 3, 1)))]
        rest[0][0, 0] = 77  # nothing that is a token stands there
    forward, backward = getattr(ops, f"{name}_forward"), getattr(ops, f"{name}_backward")
    loss, cache = forward(logits, *rest, temperature=2.0, targets=targets)
    grads = backward(0.7, cache)
    ignored = targets == -100
    logits[ignored] = np.nan
    rest[-1][ignored] = np.nan
    again, cache = forward(logits, *rest, temperature=2.0, targets=targets)
    assert again == loss
    for grad, first in zip(np.array(backward(0.7, cache)), np.array(grads), strict=True):
        np.testing.assert_array_equal(grad, first)
    for grad in [grads] if name == "kl_topk" else grads:
        np.testing.assert_array_equal(grad[ignored], np.zeros((3, 5)))
        assert (grad[~ignored] != 0).all()
    none, cache = forward(logits, *rest, targets=np.full((2, 3), -100))
    assert none == 0
    for grad in np.array(backward(1.0, cache)):
        np.testing.assert_array_equal(grad, np.zeros_like(grad))


@both_ops
def test_a_teacher_that_is_not_trained_has_no_gradient(rng, ops):
    _, cache = ops.kl_forward(*rng.standard_normal((2, 2, 3, 5)))
    dlogits, dteacher = ops.kl_backward(1.0, cache)
    alone, none = ops.kl_backward(1.0, cache, with_teacher=False)
    np.testing.assert_array_equal(alone, dlogits)
    assert none is None
    assert dteacher is not None


@both_ops
@pytest.mark.parametrize("T", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_none_is_refused(ops, T):
    with pytest.raises(ValueError, match=f"temperature={T} must be positive"):
        ops.kl_forward(np.ones((2, 3)), np.ones((2, 3)), T)
    with pytest.raises(ValueError, match=f"temperature={T} must be positive"):
        ops.kl_topk_forward(np.ones((2, 3)), np.array([[0], [1]]), np.zeros((2, 1)), T)


@both_ops
def test_targets_of_another_shape_are_refused(ops):
    with pytest.raises(ValueError, match=r"targets \(3,\) must be one for each position, \(2,\)"):
        ops.kl_forward(np.ones((2, 3)), np.ones((2, 3)), targets=np.zeros(3, int))


# --- from a teacher's likeliest tokens


def top(teacher, K, T):
    """Return the ids and log-probabilities of a teacher's K likeliest tokens."""
    ids = np.argsort(-teacher, axis=-1)[..., :K]
    logp = np.log(np.apply_along_axis(softmax, -1, teacher, T))
    return ids, np.take_along_axis(logp, ids, -1)


@both_ops
@pytest.mark.parametrize(("K", "T"), [(1, 1.0), (3, 2.5), (5, 0.7)])
def test_kl_topk_value(rng, ops, K, T):
    student, teacher = 2 * rng.standard_normal((2, 4, 6))
    ids, logp = top(teacher, K, T)
    loss, _ = ops.kl_topk_forward(student, ids, logp, T)
    each = []
    for n in range(4):
        q, p = softmax(student[n], T), softmax(teacher[n], T)
        others = [v for v in range(6) if v not in ids[n]]
        masses = [(p[v], q[v]) for v in ids[n]] + [(sum(p[v] for v in others), sum(q[v] for v in others))]
        each.append(T * T * sum(a * math.log(a / b) for a, b in masses))
    assert loss == pytest.approx(sum(each) / 4, rel=1e-12)
    whole, _ = ops.kl_forward(student, teacher, T)
    assert 0 < loss <= whole * (1 + 1e-12)


@both_ops
@pytest.mark.parametrize("T", [1.0, 1.7])
def test_all_tokens_give_the_whole_divergence(rng, T, ops):
    student, teacher = 2 * rng.standard_normal((2, 4, 6))
    loss, cache = ops.kl_topk_forward(student, *top(teacher, 6, T), T)
    whole, whole_cache = ops.kl_forward(student, teacher, T)
    assert loss == pytest.approx(whole, rel=1e-12)
    expected, _ = ops.kl_backward(0.7, whole_cache)
    np.testing.assert_allclose(ops.kl_topk_backward(0.7, cache), expected, rtol=1e-11, atol=1e-15)


@both_ops
def test_a_student_that_divides_the_rest_as_the_teacher_has_the_whole_divergence(rng, ops):
    teacher = rng.standard_normal((4, 6))
    ids, logp = top(teacher, 2, 1.0)
    student = teacher.copy()
    np.put_along_axis(student, ids, rng.standard_normal((4, 2)), -1)  # the other four stay in proportion
    loss, cache = ops.kl_topk_forward(student, ids, logp)
    whole, whole_cache = ops.kl_forward(student, teacher)
    assert loss == pytest.approx(whole, rel=1e-12)
    expected, _ = ops.kl_backward(1.0, whole_cache)
    np.testing.assert_allclose(ops.kl_topk_backward(1.0, cache), expected, rtol=1e-11, atol=1e-15)


@both_ops
@both_dtypes
def test_kl_topk_where_the_student_is_sure(dtype, ops):
    """The student gives the rest a mass of e^-1e4, whose logarithm is known although it is 0 itself, or all of it."""
    student = np.array([[1e4, 0, 0, 0], [-1e4, 0, 0, 0]], dtype)
    ids, logp = np.array([[0], [0]]), np.log(np.array([[0.5], [0.5]]))
    loss, cache = ops.kl_topk_forward(student, ids, logp)
    each = (
        0.5 * math.log(0.5) + 0.5 * (1e4 + math.log(0.5) - math.log(3)),
        0.5 * 1e4 + math.log(0.5) + 0.5 * math.log(3),
    )
    assert loss == pytest.approx(sum(each) / 2, rel=1e-3)
    sixth = 0.5 / 3
    expected = [[0.5, -sixth, -sixth, -sixth], [-0.5, sixth, sixth, sixth]]
    np.testing.assert_allclose(ops.kl_topk_backward(dtype(2), cache), expected, rtol=1e-6)


@both_ops
def test_probabilities_that_add_up_to_more_than_one_leave_nothing_for_the_rest(ops):
    logits, ids = np.array([[1.0, 2.0, 3.0]]), np.array([[2, 1]])
    logp = np.log(np.array([[0.7, 0.4]]))
    loss, cache = ops.kl_topk_forward(logits, ids, logp)
    p, q = (0.7 / 1.1, 0.4 / 1.1), softmax(logits[0])
    assert loss == pytest.approx(p[0] * math.log(p[0] / q[2]) + p[1] * math.log(p[1] / q[1]), rel=1e-13)
    np.testing.assert_allclose(ops.kl_topk_backward(1.0, cache), [[q[0], q[1] - p[1], q[2] - p[0]]], rtol=1e-12)


@both_ops
def test_half_precision_of_the_teacher_and_any_integers_will_do(rng, ops):
    student, teacher = rng.standard_normal((2, 4, 6)).astype(np.float32)
    ids, logp = top(teacher, 3, 1.0)
    loss, cache = ops.kl_topk_forward(student, ids.astype(np.uint16), logp.astype(np.float16))
    assert loss.dtype == ops.kl_topk_backward(1.0, cache).dtype == np.float32
    assert loss == pytest.approx(ops.kl_topk_forward(student, ids, logp)[0], abs=2e-3)  # four roundings of 2^-11


@both_ops
@pytest.mark.parametrize(
    ("ids", "match"),
    [
        ([[0, 5]], "id 5 is not in 0..4"),
        ([[-1, 0]], "id -1 is not in 0..4"),
        ([[3, 3]], "id 3 occurs twice"),
        ([[1, 2, 3]], "must be"),
        ([[1, 2], [3, 4]], "must be"),
    ],
)
def test_tokens_that_cannot_be_are_refused(ids, match, ops):
    with pytest.raises(ValueError, match=match):
        ops.kl_topk_forward(np.zeros((1, 5)), np.array(ids), np.log([[0.4, 0.3]]))


def test_the_example_of_teacher_masses():
    logp, counted = np.log([[0.5, 0.3], [0.1, 0.1]]), np.array([0])
    log_p, rest = teacher_masses(logp, counted, 5, np.dtype(float))
    np.testing.assert_allclose(np.exp(log_p), [[0.5, 0.3]], rtol=1e-14)
    np.testing.assert_allclose(rest, [[0.2]], rtol=1e-14)
    log_p, rest = teacher_masses(logp, counted, 2, np.dtype(float))
    np.testing.assert_allclose(np.exp(log_p), [[0.625, 0.375]], rtol=1e-14)
    np.testing.assert_array_equal(rest, [[0]])


# --- label smoothing


@both_ops
@pytest.mark.parametrize("e", [0.0, 0.1, 1.0])
def test_label_smoothing_value(rng, e, ops):
    logits, targets = 2 * rng.standard_normal((3, 5)), np.array([4, -100, 0])
    loss, cache = ops.cross_entropy_forward(logits, targets, label_smoothing=e)
    wanted = 0.0
    gradient = np.zeros((3, 5))
    for n in (0, 2):
        q = softmax(logits[n])
        share = [e / 5 + (1 - e) * (v == targets[n]) for v in range(5)]
        wanted -= sum(s * math.log(p) for s, p in zip(share, q, strict=True)) / 2
        gradient[n] = 0.7 / 2 * (np.array(q) - share)
    assert loss == pytest.approx(wanted, rel=1e-13)
    np.testing.assert_allclose(ops.cross_entropy_backward(0.7, cache), gradient, rtol=1e-12, atol=1e-16)


@both_ops
@both_dtypes
def test_no_smoothing_gives_the_bits_of_the_plain_loss(rng, dtype, ops):
    logits, targets = rng.standard_normal((5, 33)).astype(dtype), np.array([4, -100, 0, 32, 1])
    loss, cache = ops.cross_entropy_forward(logits, targets)
    again, smooth = ops.cross_entropy_forward(logits, targets, label_smoothing=0.0)
    assert again == loss
    np.testing.assert_array_equal(
        ops.cross_entropy_backward(dtype(1), smooth), ops.cross_entropy_backward(dtype(1), cache)
    )
    logits[0, 7] = -np.inf  # a token that is ruled out costs nothing, and without smoothing is not asked for
    assert np.isfinite(ops.cross_entropy_forward(logits, targets)[0])


@both_ops
@both_dtypes
def test_smoothing_of_extreme_logits(dtype, ops):
    loss, cache = ops.cross_entropy_forward(np.array([[1e4, -1e4, 0]], dtype), np.array([0]), label_smoothing=0.3)
    assert loss == pytest.approx(0.1 * 2e4 + 0.1 * 1e4, rel=1e-6)
    np.testing.assert_allclose(ops.cross_entropy_backward(dtype(1), cache), [[0.2, -0.1, -0.1]], atol=1e-7)


@both_ops
@pytest.mark.parametrize("e", [-0.1, 1.1, math.nan])
def test_a_share_that_is_none_is_refused(e, ops):
    with pytest.raises(ValueError, match=f"label_smoothing={e} must be in 0..1"):
        ops.cross_entropy_forward(np.ones((1, 2)), np.array([0]), label_smoothing=e)
