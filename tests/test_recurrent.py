"""Layers of GRUs and LSTMs: against the layers one by one, in pieces, and against finite differences."""

import numpy as np
import pytest

from npgpt import layers
from npgpt.gradcheck import check_backward
from npgpt.models.recurrent import stack_backward, stack_forward
from npgpt.ops import FAST, REFERENCE

GATES = {"gru": 3, "lstm": 4}
each = pytest.mark.parametrize("kind", GATES)
LENGTHS = np.array([4, 0, 5])


def stack(kind, n_layer=2, directions=1, B=3, T=5, n_in=4, H=2, seed=0):
    """Return x, the states, and the weights of the layers, of order one."""
    rng, G = np.random.default_rng(seed), GATES[kind]
    states = tuple(rng.standard_normal((n_layer * directions, B, H)) for _ in range(G - 2))
    weights = []
    for layer in range(n_layer):
        for _ in range(directions):
            shapes = (G * H, n_in if layer == 0 else directions * H), (G * H, H), (G * H,), (G * H,)
            weights.append(tuple(rng.standard_normal(shape) for shape in shapes))
    return rng.standard_normal((B, T, n_in)), states, weights


@each
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_two_directions_side_by_side_are_the_next_layers_input(kind, lengths):
    x, states, weights = stack(kind, directions=2)
    out, cache = stack_forward(x, states, weights, REFERENCE, lengths, bidirectional=True)
    forward, last = getattr(layers, f"{kind}_forward"), []
    for layer in (0, 1):
        outs = []
        for n, reverse in ((2 * layer, False), (2 * layer + 1, True)):
            one, its_cache = forward(x, *(state[n] for state in states), *weights[n], lengths, reverse)
            outs.append(one)
            end = [0 if reverse else length - 1 for length in (LENGTHS if lengths is not None else [5] * 3)]
            last.append([one[b, end[b]] if end[b] >= 0 else states[0][n, b] for b in range(3)])
            if lengths is not None:
                last[-1][1] = states[0][n, 1]  # which has no step
            if kind == "lstm":
                np.testing.assert_array_equal(cache.states[1][n], its_cache.c_n)
        x = np.concatenate(outs, axis=2)
    np.testing.assert_array_equal(out, x)
    np.testing.assert_array_equal(cache.states[0], last)


# these take less than a second, and have each of the features
SMALL = {("plain", "lstm"), ("plain", "gru"), ("dropout", "gru"), ("both directions", "gru")}
STACKS = {
    "plain": (REFERENCE, 2, 1, 0.0, None),
    "dropout": (REFERENCE, 3, 1, 0.3, None),
    "both directions": (REFERENCE, 2, 2, 0.0, [2, 0, 3]),
    "fast": (FAST, 2, 2, 0.3, [2, 0, 3]),
}


@pytest.mark.parametrize(
    ("kind", "ops", "n_layer", "directions", "p", "lengths"),
    [
        pytest.param(kind, *stack, id=f"{name}-{kind}", marks=() if (name, kind) in SMALL else pytest.mark.big)
        for name, stack in STACKS.items()
        for kind in GATES
    ],
)
def test_gradient(kind, ops, n_layer, directions, p, lengths):
    x, states, weights = stack(kind, n_layer, directions, T=3, n_in=2)
    lengths = lengths and np.array(lengths)
    flat = [x, *states, *(array for group in weights for array in group)]
    n_states = len(states)

    def forward(x, *arrays):
        groups = [arrays[n_states + 4 * n : n_states + 4 * n + 4] for n in range(len(weights))]
        out, cache = stack_forward(
            x, arrays[:n_states], groups, ops, lengths, directions == 2, p, np.random.default_rng(7)
        )
        return np.concatenate([out.ravel(), *(state.ravel() for state in cache.states)]), cache

    def backward(dflat, cache):
        sizes = [9 * 2 * directions, *(state.size for state in states)]
        dout, *dstates = np.split(dflat, np.cumsum(sizes)[:-1])
        dstates = [dstate.reshape(states[0].shape) for dstate in dstates]
        dx, dfirst, dweights = stack_backward(dout.reshape(3, 3, -1), cache, dstates)
        return dx, *dfirst, *(grad for group in dweights for grad in group)

    report = check_backward(forward, backward, *flat, tolerance=1e-7)
    assert report, report


@each
def test_a_text_in_pieces_is_the_whole(kind):
    """Values go on by the states alone; gradients only if they are handed back, and else as with bptt."""
    x, states, weights = stack(kind)
    dout = np.random.default_rng(3).standard_normal((3, 5, 2))
    for handed_back in (True, False):
        out, cache = stack_forward(x, states, weights, bptt=None if handed_back else 3)
        first, first_cache = stack_forward(x[:, :3], states, weights)
        second, second_cache = stack_forward(x[:, 3:], first_cache.states, weights)
        np.testing.assert_allclose(np.concatenate([first, second], axis=1), out, rtol=1e-13)
        np.testing.assert_allclose(second_cache.states, cache.states, rtol=1e-13)
        dx, dfirst, dweights = stack_backward(dout, cache)
        dx_2, dmiddle, dweights_2 = stack_backward(dout[:, 3:], second_cache)
        dx_1, dfirst_1, dweights_1 = stack_backward(dout[:, :3], first_cache, dmiddle if handed_back else None)
        np.testing.assert_allclose(np.concatenate([dx_1, dx_2], axis=1), dx, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(dfirst_1, dfirst, rtol=1e-12, atol=1e-14)
        for whole, one, two in zip(dweights, dweights_1, dweights_2, strict=True):
            for grad, a, b in zip(whole, one, two, strict=True):
                np.testing.assert_allclose(a + b, grad, rtol=1e-12, atol=1e-13)


@each
def test_nothing_is_written_into_what_is_given(kind):
    x, states, weights = stack(kind, directions=2)
    dout, dlast = np.random.default_rng(3).standard_normal((3, 5, 4)), [np.ones_like(state) for state in states]
    given = [x, dout, *states, *dlast, *(array for group in weights for array in group)]
    before = [array.copy() for array in given]
    _, cache = stack_forward(x, states, weights, lengths=LENGTHS, bidirectional=True)
    once, again = (stack_backward(dout, cache, dlast) for _ in range(2))
    np.testing.assert_array_equal(once[0], again[0])
    for array, copy in zip(given, before, strict=True):
        np.testing.assert_array_equal(array, copy)


@each
def test_float32_stays(kind):
    x, states, weights = stack(kind)
    single = [array.astype(np.float32) for array in (x, *states)]
    groups = [tuple(array.astype(np.float32) for array in group) for group in weights]
    out, cache = stack_forward(single[0], single[1:], groups, p=0.2, rng=np.random.default_rng(0))
    dx, dstates, dweights = stack_backward(out, cache)
    found = [out, dx, *cache.states, *dstates, *(grad for group in dweights for grad in group)]
    assert {array.dtype for array in found} == {np.dtype(np.float32)}


def test_what_does_not_fit_is_named():
    x, states, weights = stack("gru")
    with pytest.raises(ValueError, match="got 3 states"):
        stack_forward(x, [*states] * 3, weights)
    with pytest.raises(ValueError, match=r"needs weights and states, got 1 weights and states for \[2\]"):
        stack_forward(x, states, weights[:1])
    with pytest.raises(ValueError, match="every layer in both directions needs"):
        stack_forward(x, (states[0][:1],), weights[:1], bidirectional=True)
    with pytest.raises(ValueError, match="w_ih must have the shape"):
        stack_forward(x, [*states] * 2, weights)
