"""GRU and LSTM against their formulas, one row and one step at a time, and at their edges."""

import math

import numpy as np
import pytest

from npgpt.gradcheck import check_backward
from npgpt.layers.recurrence import sigmoid, steps
from npgpt.ops import FAST, REFERENCE
from tests.conftest import mostly_big

OPS = {"reference": REFERENCE, "fast": FAST}
GATES = {"gru": 3, "lstm": 4}
each = pytest.mark.parametrize("layer", GATES)
on_both = pytest.mark.parametrize("ops", OPS.values(), ids=OPS)


def arguments(layer, B=3, T=7, n_in=4, H=5, seed=0, scale=1.0):
    """Return x, the states and the weights, of order one."""
    rng, G = np.random.default_rng(seed), GATES[layer]
    shapes = [(B, T, n_in), *[(B, H)] * (G - 2), (G * H, n_in), (G * H, H), (G * H,), (G * H,)]
    return [scale * rng.standard_normal(shape) for shape in shapes]


def run(ops, layer, args, **options):
    """Return out, the gradients, and the cells at the end (None of a GRU)."""
    out, cache = getattr(ops, f"{layer}_forward")(*args, **options)
    dout = np.random.default_rng(9).standard_normal(out.shape).astype(out.dtype)
    return out, getattr(ops, f"{layer}_backward")(dout, cache), getattr(cache, "c_n", None)


def logistic(v):
    return 1 / (1 + math.exp(-v)) if v > -700 else 0.0


def by_formula(layer, args, lengths, reverse):
    """Compute out and the cells at the end, number by number."""
    x, *states, w_ih, w_hh, b_ih, b_hh = args
    B, T, H = *x.shape[:2], states[0].shape[1]
    out, cells = np.zeros((B, T, H)), np.copy(states[-1])
    for b in range(B):
        h, c = list(states[0][b]), list(states[-1][b])
        for t in reversed(range(lengths[b])) if reverse else range(lengths[b]):
            ours = [
                sum(w * v for w, v in zip(row, x[b, t], strict=True)) + q for row, q in zip(w_ih, b_ih, strict=True)
            ]
            theirs = [sum(w * v for w, v in zip(row, h, strict=True)) + q for row, q in zip(w_hh, b_hh, strict=True)]
            for j, old in enumerate(list(h)):
                a, d = ours[j::H], theirs[j::H]
                if layer == "gru":
                    r, z = logistic(a[0] + d[0]), logistic(a[1] + d[1])
                    h[j] = (1 - z) * math.tanh(a[2] + r * d[2]) + z * old
                else:
                    i, f, o = (logistic(a[k] + d[k]) for k in (0, 1, 3))
                    c[j] = f * c[j] + i * math.tanh(a[2] + d[2])
                    h[j] = o * math.tanh(c[j])
            out[b, t] = h
        cells[b] = c
    return out, cells


@on_both
@each
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [[7, 7, 7], [3, 0, 7], [1, 6, 2]])
def test_value(layer, ops, reverse, lengths):
    args = arguments(layer)
    given = None if lengths == [7, 7, 7] else np.array(lengths)
    out, _, c_n = run(ops, layer, args, lengths=given, reverse=reverse)
    wanted, cells = by_formula(layer, args, lengths, reverse)
    np.testing.assert_allclose(out, wanted, rtol=1e-12, atol=1e-13)
    if layer == "lstm":
        np.testing.assert_allclose(c_n, cells, rtol=1e-12, atol=1e-13)


@on_both
@each
@pytest.mark.parametrize("options", [{}, {"lengths": np.array([4, 0, 7]), "reverse": True}], ids=["plain", "lengths"])
def test_gradients_along_random_directions(layer, ops, options):
    """What the gradient check says of each number, here of all of an array at once, in a few runs."""
    args = arguments(layer)
    forward, rng = getattr(ops, f"{layer}_forward"), np.random.default_rng(2)
    out, cache = forward(*args, **options)
    dout = rng.standard_normal(out.shape)
    grads = getattr(ops, f"{layer}_backward")(dout, cache)
    for number, (arg, grad) in enumerate(zip(args, grads, strict=True)):
        step = 1e-3 * rng.standard_normal(arg.shape) / np.sqrt(arg.size)

        def along(n, number=number, step=step):
            moved = [a + n * step if i == number else a for i, a in enumerate(args)]
            return (dout * forward(*moved, **options)[0]).sum()

        difference = (8 * (along(1) - along(-1)) - (along(2) - along(-2))) / 12
        # the error is of order step^4, 1e-12 here, and of the roundings of a sum of 100 numbers, 1e-15
        assert abs(difference - (grad * step).sum()) < 1e-9 * np.linalg.norm(grad) * np.linalg.norm(step)


@on_both
@each
@pytest.mark.parametrize(
    ("B", "T", "n_in", "H"), [(1, 1, 1, 1), (1, 4, 3, 2), (3, 1, 2, 5), (2, 0, 3, 2), (0, 3, 2, 2)]
)
def test_single_rows_and_steps_and_none(layer, ops, B, T, n_in, H):
    args = arguments(layer, B, T, n_in, H)
    out, grads, c_n = run(ops, layer, args)
    wanted, cells = by_formula(layer, args, [T] * B, False)
    np.testing.assert_allclose(out, wanted, rtol=1e-12, atol=1e-13)
    assert [grad.shape for grad in grads] == [arg.shape for arg in args]
    if layer == "lstm":
        np.testing.assert_allclose(c_n, cells, rtol=1e-12, atol=1e-13)
    if T == 0:
        assert not any(grad.any() for grad in grads)


@on_both
@each
def test_lengths_that_are_all_t_change_nothing(layer, ops):
    args = arguments(layer)
    for reverse in (False, True):
        plain = run(ops, layer, args, reverse=reverse)
        given = run(ops, layer, args, reverse=reverse, lengths=np.full(3, 7, np.int32))
        for one, two in zip((plain[0], *plain[1]), (given[0], *given[1]), strict=True):
            np.testing.assert_array_equal(one, two)


def flipped(array, lengths):
    """Return each row with its first lengths[b] positions in the other order."""
    result = array.copy()
    for b, n in enumerate(lengths):
        result[b, :n] = array[b, :n][::-1]
    return result


@on_both
@each
@pytest.mark.parametrize("bptt", [None, 2])
def test_reverse_is_the_rows_flipped(layer, ops, bptt):
    args, lengths = arguments(layer), np.array([4, 0, 7])
    out, cache = getattr(ops, f"{layer}_forward")(*args, lengths, True, bptt)
    x, *others = args
    there, there_cache = getattr(ops, f"{layer}_forward")(flipped(x, lengths), *others, lengths, False, bptt)
    np.testing.assert_allclose(out, flipped(there, lengths), rtol=1e-13, atol=1e-14)
    dout = np.random.default_rng(5).standard_normal(out.shape)
    backward = getattr(ops, f"{layer}_backward")
    dx, *grads = backward(dout, cache)
    there_dx, *wanted = backward(flipped(dout, lengths), there_cache)
    np.testing.assert_allclose(dx, flipped(there_dx, lengths), rtol=1e-12, atol=1e-13)
    for grad, want in zip(grads, wanted, strict=True):
        np.testing.assert_allclose(grad, want, rtol=1e-12, atol=1e-13)


@on_both
@each
@pytest.mark.parametrize("bptt", [1, 3, 7, 100])
def test_truncated_gradients_are_those_of_chunks_that_pass_on_values_alone(layer, ops, bptt):
    args = arguments(layer)
    x, *states, w_ih, w_hh, b_ih, b_hh = args
    weights = [w_ih, w_hh, b_ih, b_hh]
    forward, backward = getattr(ops, f"{layer}_forward"), getattr(ops, f"{layer}_backward")
    out, cache = forward(*args, bptt=bptt)
    dout = np.random.default_rng(5).standard_normal(out.shape)
    dx, *grads = backward(dout, cache)
    given = list(states)
    pieces, dpieces, sums, first = [], [], [np.zeros_like(w) for w in weights], None
    for at in range(0, 7, bptt):
        piece, piece_cache = forward(x[:, at : at + bptt], *given, *weights)
        dpiece, *dothers = backward(dout[:, at : at + bptt], piece_cache)
        first = dothers[: len(states)] if first is None else first
        pieces.append(piece)
        dpieces.append(dpiece)
        for total, part in zip(sums, dothers[len(states) :], strict=True):
            total += part
        given = [piece[:, -1], *([piece_cache.c_n] if layer == "lstm" else [])]
    np.testing.assert_allclose(out, np.concatenate(pieces, axis=1), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(dx, np.concatenate(dpieces, axis=1), rtol=1e-12, atol=1e-13)
    for grad, want in zip(grads, [*first, *sums], strict=True):
        np.testing.assert_allclose(grad, want, rtol=1e-12, atol=1e-13)


@on_both
@pytest.mark.parametrize("reverse", mostly_big([False, True], {True}.__contains__))
def test_the_gradient_at_the_last_cells_goes_in(ops, reverse):
    args, lengths = arguments("lstm"), np.array([4, 0, 7])

    def forward(*args):
        out, cache = ops.lstm_forward(*args, lengths, reverse)
        return np.concatenate([out.reshape(3, -1), cache.c_n], axis=1), cache

    def backward(dboth, cache):
        return ops.lstm_backward(dboth[:, :35].reshape(3, 7, 5), cache, dboth[:, 35:])

    report = check_backward(forward, backward, *args, tolerance=1e-8)
    assert report, report


@on_both
@each
def test_what_stands_after_a_row_is_neither_read_nor_written(layer, ops):
    args, lengths = arguments(layer), np.array([4, 0, 7])
    plain = run(ops, layer, args, lengths=lengths)
    args[0] = args[0].copy()
    args[0][0, 4:] = args[0][1] = np.nan
    out, cache = getattr(ops, f"{layer}_forward")(*args, lengths)
    dout = np.random.default_rng(9).standard_normal(out.shape)
    dout[0, 4:] = dout[1] = np.nan
    grads = getattr(ops, f"{layer}_backward")(dout, cache)
    for one, two in zip((plain[0], *plain[1]), (out, *grads), strict=True):
        np.testing.assert_array_equal(one, two)
    assert not out[0, 4:].any()
    assert not out[1].any()
    assert not grads[0][0, 4:].any()


@on_both
@each
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_saturated_gates_are_finite(layer, ops, dtype):
    args = [np.sign(array).astype(dtype) * dtype(1e4) for array in arguments(layer)]
    args[1] = np.sign(args[1])
    # a kernel that runs as plain Python may warn of an infinity that it then leaves out
    with np.errstate(all="raise" if ops is REFERENCE else "ignore", under="ignore"):
        out, grads, _ = run(ops, layer, args)
    assert np.isfinite(out).all()
    assert (np.abs(out) <= 1).all()
    assert all(np.isfinite(grad).all() for grad in grads)


@on_both
@each
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"bptt": 0}, ValueError, "bptt=0 must be 1 or more"),
        ({"lengths": np.array([1, 8, 2])}, ValueError, r"length 8 is not in 0\.\.7"),
        ({"lengths": np.array([1, -1, 2])}, ValueError, r"length -1 is not in 0\.\.7"),
        ({"lengths": np.array([1, 2])}, ValueError, r"lengths \(2,\) must have the shape"),
        ({"lengths": np.array([1.0, 2, 3])}, TypeError, "lengths must be integers, got float64"),
    ],
)
def test_options_that_cannot_be_are_named(layer, ops, options, error, words):
    with pytest.raises(error, match=words):
        run(ops, layer, arguments(layer), **options)


@on_both
@each
@pytest.mark.parametrize("number", range(7))
def test_arrays_that_do_not_fit_are_named(layer, ops, number):
    args = arguments(layer)
    if number < len(args):
        name = ["x", "h0", *(["c0"] if layer == "lstm" else []), "w_ih", "w_hh", "b_ih", "b_hh"][number]
        args[number] = args[number][..., :-1] if number else args[number][0]
        with pytest.raises(ValueError, match=f"{'c0|w_hh|w_ih' if name == 'h0' else name} must"):
            run(ops, layer, args)


def test_sigmoid():
    for value in (-1e4, -700.5, -20.0, -1.0, 0.0, 1e-3, 1.0, 20.0, 1e4):
        assert sigmoid(np.array([value]))[0] == pytest.approx(logistic(value), rel=1e-15, abs=1e-300)
    assert sigmoid(np.array([-80], np.float32)).dtype == np.float32
    assert np.isnan(sigmoid(np.array([np.nan]))).all()


def test_which_row_steps_when():
    order, active, cut = steps(2, 3, np.array([3, 2]), True, 1)
    assert list(order) == [2, 1, 0]
    assert active[..., 0].tolist() == [[True, True, True], [True, True, False]]
    assert cut[..., 0].tolist() == [[True, True, False], [True, False, False]]
    order, active, cut = steps(1, 5, None, False, 2)
    assert list(order) == [0, 1, 2, 3, 4]
    assert active.all()
    assert cut[0, :, 0].tolist() == [False, False, True, False, True]
    assert not steps(1, 5, None, False, None).cut.any()
