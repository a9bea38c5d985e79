"""Layers over sequences of several lengths, cross-attention and pooling, and RMS norm: their values and their edges."""

import math

import numpy as np
import pytest

from npgpt import layers
from npgpt.layers.lengths import real_positions
from npgpt.ops import FAST, REFERENCE

BOTH = pytest.mark.parametrize("ops", [REFERENCE, FAST], ids=["reference", "fast"])
LENGTHS = [np.array([3, 0, 5]), np.array([5, 5, 1], np.uint8), None]


def cross_attention_by_loops(q, kv, H, lengths=None):
    """Attend one query at a time, from the definition."""
    (B, T, C), S = q.shape, kv.shape[1]
    D = C // H
    out = np.zeros((B, T, C))
    for b in range(B):
        n = S if lengths is None else lengths[b]
        for h in range(H):
            k, v = (kv[b, :n, part * C + h * D : part * C + (h + 1) * D] for part in range(2))
            for i in range(T if n else 0):
                weights = np.array([math.exp(q[b, i, h * D : (h + 1) * D] @ key / math.sqrt(D)) for key in k])
                out[b, i, h * D : (h + 1) * D] = weights @ v / weights.sum()
    return out


@BOTH
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize(("T", "H", "D"), [(1, 1, 1), (4, 3, 2), (7, 2, 5)])
def test_cross_attention_value(rng, ops, T, H, D, lengths):
    q, kv = rng.standard_normal((3, T, H * D)), rng.standard_normal((3, 5, 2 * H * D))
    out, _ = ops.cross_attention_forward(q, kv, H, lengths)
    np.testing.assert_allclose(out, cross_attention_by_loops(q, kv, H, lengths), rtol=1e-12)


@BOTH
def test_cross_attention_of_one_key_is_its_value(rng, ops):
    q, kv = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 1, 8))
    out, cache = ops.cross_attention_forward(q, kv, 2)
    np.testing.assert_allclose(out, np.broadcast_to(kv[:, :, 4:], out.shape), rtol=1e-15)
    dout = rng.standard_normal(out.shape)
    dq, dkv = ops.cross_attention_backward(dout, cache)
    # the only weight is 1 whatever its score: its gradient is a rounding error of a difference of numbers of order one
    assert np.abs(dq).max() < 1e-15
    assert np.abs(dkv[..., :4]).max() < 1e-15
    np.testing.assert_allclose(dkv[:, 0, 4:], dout.sum(axis=1), rtol=1e-14)


@BOTH
def test_the_value_does_not_depend_on_what_the_largest_score_is(rng, ops):
    q, kv = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 5, 8))
    q[..., 3], kv[..., 3] = 1, 7
    moved = kv.copy()
    moved[..., 3] = 1007  # every score grows alike, by 500
    np.testing.assert_allclose(
        *(ops.cross_attention_forward(q, x, 1)[0] for x in (kv, moved)),
        rtol=1e-12,  # scores of some 500 have roundings of 6e-14
    )


@BOTH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_scores_choose_the_largest(ops, dtype):
    q = np.array([[[1e4], [-1e4]]], dtype)
    kv = np.array([[[1, 5], [-1, 6], [0, 7]]], dtype)
    out, cache = ops.cross_attention_forward(q, kv, 1)
    np.testing.assert_array_equal(out, [[[5], [6]]])
    dq, dkv = ops.cross_attention_backward(np.ones_like(out), cache)
    np.testing.assert_array_equal(dq, np.zeros_like(q))
    np.testing.assert_array_equal(dkv, [[[0, 1], [0, 1], [0, 0]]])


# --- what stands beyond a length


def run_beyond(ops, layer, filling, rng):
    """Run a layer whose sequences have `filling` beyond the lengths 3, 0 and 5; return its results."""
    lengths, filled = np.array([3, 0, 5]), np.arange(5) >= np.array([3, 0, 5])[:, None]
    x = rng.standard_normal((3, 5, 8))
    x[filled] = filling
    args, options = {
        "cross_attention": ((rng.standard_normal((3, 2, 4)), x), {"n_head": 2}),
        "attention_pool": ((x, rng.standard_normal(8)), {}),
        "mean": ((x,), {"how": "mean"}),
        "last": ((x,), {"how": "last"}),
    }[layer]
    name = "pool" if layer in ("mean", "last") else layer
    out, cache = getattr(ops, f"{name}_forward")(*args, **options, lengths=lengths)
    grads = getattr(ops, f"{name}_backward")(rng.standard_normal(out.shape), cache)
    grads = grads if isinstance(grads, tuple) else (grads,)
    dx = grads[1 if layer == "cross_attention" else 0]
    return out, grads, dx[filled]


@BOTH
@pytest.mark.parametrize("layer", ["cross_attention", "attention_pool", "mean", "last"])
def test_what_stands_beyond_a_length_counts_for_nothing(ops, layer):
    plain = run_beyond(ops, layer, 0.0, np.random.default_rng(1))
    for filling in (1e30, np.inf, np.nan):
        found = run_beyond(ops, layer, filling, np.random.default_rng(1))
        np.testing.assert_array_equal(found[0], plain[0])
        for got, want in zip(found[1], plain[1], strict=True):
            np.testing.assert_array_equal(got, want)
        assert (found[2] == 0).all()


@BOTH
@pytest.mark.parametrize("layer", ["cross_attention", "attention_pool", "mean", "last"])
def test_a_sequence_of_length_zero_gives_zero_and_gets_zero(ops, layer):
    out, grads, _ = run_beyond(ops, layer, np.nan, np.random.default_rng(1))
    assert (out[1] == 0).all()
    for grad in grads:
        assert grad.ndim == 1 or (grad[1] == 0).all()
    assert (out[[0, 2]] != 0).all()


@BOTH
@pytest.mark.parametrize("layer", ["cross_attention", "attention_pool", "mean", "last"])
def test_nan_in_a_real_position_stays_visible(rng, ops, layer):
    x = rng.standard_normal((2, 4, 8))
    x[0, 2] = np.nan
    args = {
        "cross_attention": (rng.standard_normal((2, 3, 4)), x, 1),
        "attention_pool": (x, rng.standard_normal(8)),
    }.get(layer, (x, layer))
    name = "pool" if layer in ("mean", "last") else layer
    out, _ = getattr(ops, f"{name}_forward")(*args, lengths=np.array([3, 4]))
    assert np.isnan(out[0]).all()
    assert np.isfinite(out[1]).all()


@BOTH
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's own, on 0 / 0
def test_scores_that_are_all_minus_infinity_do_not_look_like_an_empty_source(ops):
    q, kv = np.full((1, 1, 1), -np.inf), np.ones((1, 2, 2))
    assert np.isnan(ops.cross_attention_forward(q, kv, 1, np.array([2]))[0]).all()


# --- pooling


@pytest.mark.parametrize("lengths", LENGTHS)
def test_pool_value(rng, lengths):
    x = rng.standard_normal((3, 5, 4))
    counts = [5, 5, 5] if lengths is None else lengths
    rows = [[list(x[b, :n, c]) for c in range(4)] for b, n in enumerate(counts)]
    mean = [[sum(values) / len(values) if values else 0 for values in row] for row in rows]
    last = [[values[-1] if values else 0 for values in row] for row in rows]
    np.testing.assert_allclose(layers.pool_forward(x, lengths=lengths)[0], mean, rtol=1e-14)
    np.testing.assert_array_equal(layers.pool_forward(x, "last", lengths)[0], last)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_attention_pool_value(rng, lengths):
    x, weight = rng.standard_normal((3, 5, 4)), rng.standard_normal(4)
    out, _ = layers.attention_pool_forward(x, weight, lengths)
    for b, n in enumerate([5, 5, 5] if lengths is None else lengths):
        shares = [math.exp(sum(x[b, s, c] * weight[c] for c in range(4))) for s in range(n)]
        want = [sum(e * x[b, s, c] for s, e in enumerate(shares)) / sum(shares) if n else 0 for c in range(4)]
        np.testing.assert_allclose(out[b], want, rtol=1e-13)


def test_attention_pool_by_no_weights_is_the_mean(rng):
    x, lengths = rng.standard_normal((3, 5, 4)), np.array([3, 0, 5])
    out, _ = layers.attention_pool_forward(x, np.zeros(4), lengths)
    np.testing.assert_allclose(out, layers.pool_forward(x, "mean", lengths)[0], rtol=1e-14)


# --- RMS norm


@BOTH
def test_rmsnorm_value(rng, ops):
    x, weight = 3 + 2 * rng.standard_normal((4, 5)), rng.standard_normal(5)
    out, _ = ops.rmsnorm_forward(x, weight, 0.1)
    for row, got in zip(x, out, strict=True):
        rms = math.sqrt(sum(v * v for v in row) / 5 + 0.1)
        np.testing.assert_allclose(got, [v / rms * w for v, w in zip(row, weight, strict=True)], rtol=1e-13)


@BOTH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rmsnorm_of_zeros_is_zero_and_its_gradient_finite(ops, dtype):
    out, cache = ops.rmsnorm_forward(np.zeros((2, 4), dtype), np.ones(4, dtype))
    np.testing.assert_array_equal(out, np.zeros((2, 4)))
    dx, dweight = ops.rmsnorm_backward(np.ones((2, 4), dtype), cache)
    np.testing.assert_allclose(dx, np.full((2, 4), 1e3), rtol=1e-6)  # 1 / sqrt(eps)
    np.testing.assert_array_equal(dweight, np.zeros(4))


# --- what is refused


MISTAKES = {
    "heads": (lambda ops: ops.cross_attention_forward(np.zeros((1, 2, 6)), np.zeros((1, 3, 12)), 4), "n_head=4"),
    "channels": (
        lambda ops: ops.cross_attention_forward(np.zeros((1, 2, 6)), np.zeros((1, 3, 11)), 3),
        r"kv \(1, 3, 11\) must have the shape \(B, S, 2C\) = \(1, S, 12\)",
    ),
    "rows": (lambda ops: ops.cross_attention_forward(np.zeros((1, 2, 6)), np.zeros((2, 3, 12)), 3), "= .1, S, 12."),
    "axes": (lambda ops: ops.cross_attention_forward(np.zeros((1, 2, 6)), np.zeros((1, 12)), 3), "= .1, S, 12."),
    "a length beyond": (
        lambda ops: ops.cross_attention_forward(np.zeros((2, 2, 6)), np.zeros((2, 3, 12)), 3, np.array([3, 4])),
        r"length 4 is not in 0\.\.3",
    ),
    "p": (
        lambda ops: ops.cross_attention_forward(
            np.zeros((1, 2, 6)), np.zeros((1, 3, 12)), 3, None, 1.0, np.random.default_rng(0)
        ),
        "p=1.0",
    ),
    "how": (lambda ops: ops.pool_forward(np.zeros((1, 2, 3)), "max"), "how='max' must be one of mean, last"),
    "a negative length": (
        lambda ops: ops.pool_forward(np.zeros((1, 2, 3)), lengths=np.array([-1])),
        r"length -1 is not in 0\.\.2",
    ),
    "lengths of another shape": (
        lambda ops: ops.attention_pool_forward(np.zeros((1, 2, 3)), np.zeros(3), np.array([1, 2])),
        r"lengths \(2,\) must have the shape \(B,\) = \(1,\)",
    ),
}


@BOTH
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(ops, mistake):
    call, words = MISTAKES[mistake]
    with pytest.raises(ValueError, match=words):
        call(ops)


@BOTH
def test_lengths_that_are_no_integers_are_refused(ops):
    with pytest.raises(TypeError, match="lengths must be integers, got float64"):
        ops.cross_attention_forward(np.zeros((1, 2, 6)), np.zeros((1, 3, 12)), 3, np.ones(1))


def test_lengths_of_any_integer_dtype():
    for dtype in ("int8", "uint8", "int32", "uint64"):
        found = real_positions(np.array([2, 0, 3], dtype), 3, 3)
        np.testing.assert_array_equal(found, [[True, True, False], [False] * 3, [True] * 3])
