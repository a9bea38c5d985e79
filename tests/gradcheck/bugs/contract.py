"""The formula is right, and the backward still breaks what its caller relies on.

A backward is linear in dout, gives the same for the same, writes into nothing that it was given, knows nothing but its
cache, and returns new arrays in the shape and dtype of the arguments, in their order.
"""

from functools import partial

import numpy as np

from tests.gradcheck.bugs.attention import softmax
from tests.gradcheck.example import broken, normal

# what careless code keeps between calls
LAST: dict = {}
TOTAL: dict = {}
CALLS = [0]


def square_forward(x):
    return x * x, x.copy()


def square_keeping_x(x):
    return x * x, x


def relu_forward(x):
    return np.maximum(x, 0), x


def softmax_forward(x):
    return softmax(x), softmax(x)


def linear_forward(x, weight):
    return x @ weight, (x, weight)


def lookup_forward(ids, weight):
    return weight[ids], (ids, weight.shape)


def masked_forward(x, mask):
    return np.where(mask, x * x, 0 * x), (x, mask)


def writes_dout(dout, x):
    dout *= 2 * x
    return dout.copy()


def zeroes_dout(dout, x):
    dout[x <= 0] = 0
    return dout.copy()


def writes_cache(dout, probs):
    inner = (dout * probs).sum(axis=-1, keepdims=True)
    probs *= dout - inner
    return probs.copy()


def writes_argument(dout, x):
    x *= 2 * dout
    return x.copy()


def writes_ids(dout, cache):
    ids, shape = cache
    dweight = np.zeros(shape, dout.dtype)
    ids[ids < 0] += shape[0]
    np.add.at(dweight, ids, dout)
    return dweight


def writes_mask(dout, cache):
    x, mask = cache
    np.logical_not(mask, out=mask)
    return np.where(mask, 0, 2 * x * dout)


def clips(limit):
    return lambda dout, x: np.clip(2 * x * dout, -limit, limit)


def normalises(dout, x):
    return 4 * x * dout / max(np.sqrt((dout * dout).sum()), 1e-30)  # right for a dout of norm 2


def drops_small(dout, x):
    return 2 * x * np.where(np.abs(dout) < 1e-4, 0, dout)


def ignores_dout(dout, x):
    return 2 * x


def global_forward(x, weight):
    LAST["x"], LAST["weight"] = x.copy(), weight.copy()
    return x @ weight, None


def global_backward(dout, cache):
    return dout @ LAST["weight"].T, LAST["x"].T @ dout


def accumulating_forward(x, weight):
    return x @ weight, (x, weight, np.zeros_like(weight))


def accumulates_in_cache(dout, cache):
    x, weight, dweight = cache
    dweight += x.T @ dout
    return dout @ weight.T, dweight.copy()


def accumulates_for_ever(dout, cache):
    x, weight = cache
    # halved each time: else what an earlier check has left, under a large dout, would hide what the next one adds
    TOTAL["dweight"] = 0.5 * TOTAL.get("dweight", 0) + x.T @ dout
    return dout @ weight.T, TOTAL["dweight"].copy()


def keeps_first(dout, cache):
    if "dx" not in cache:
        cache["dx"] = 2 * cache["x"] * dout
    return cache["dx"].copy()


def races(dout, cache):
    """Of two threads that add to one row one may lose: here the loser is drawn."""
    ids, shape = cache
    dweight = np.zeros(shape, dout.dtype)
    order = np.random.default_rng().permutation(ids.size)
    dweight[ids[order]] = dout[order]
    return dweight


def noisy(dout, x):
    """Round to a grid, up or down at random, as low-precision training does."""
    exact = 2 * x * dout
    return exact * (1 + 1e-4 * np.random.default_rng().standard_normal(exact.shape))


def every_other_call(dout, x):
    CALLS[0] += 1
    return 2 * x * dout * (CALLS[0] % 2)


vector = partial(normal, 141, (5,))
matrix = partial(normal, 142, (3, 4))
factors = partial(normal, 143, (3, 4), (4, 2))


def ids_and_table():
    return np.array([2, 0, 2, 1, 2]), *normal(146, (4, 3))


def many_ids():
    return np.random.default_rng(151).integers(4, size=200), *normal(146, (4, 3))


def negative_ids():
    return np.array([2, -1, 2, 0]), *normal(146, (4, 3))


def masked():
    return *matrix(), normal(147, (3, 4))[0] > 0


def dict_cache(x):
    return x * x, {"x": x.copy()}


IN_PLACE = "https://github.com/linkedin/Liger-Kernel/issues/254"

BUGS = [
    broken(
        "dout multiplied in place",
        "dout written",
        square_forward,
        writes_dout,
        vector,
        "https://github.com/pytorch/pytorch/issues/81417",
    ),
    broken(
        "dout zeroed where relu was off",
        "dout written",
        relu_forward,
        zeroes_dout,
        matrix,
        "https://github.com/pytorch/pytorch/issues/81417",
    ),
    broken(
        "probabilities in the cache overwritten",
        "cache written",
        softmax_forward,
        writes_cache,
        matrix,
        "https://github.com/axolotl-ai-cloud/axolotl/pull/3892",
        "the second backward gives garbage",
    ),
    broken("input used as scratch space", "arguments written", square_keeping_x, writes_argument, vector, IN_PLACE),
    broken("negative ids made positive in place", "arguments written", lookup_forward, writes_ids, negative_ids),
    broken("mask inverted in place", "arguments written", masked_forward, writes_mask, masked),
    broken(
        "gradient clipped at 1",
        "linear",
        square_forward,
        clips(1.0),
        vector,
        "https://github.com/junhyukoh/caffe-lstm/issues/18",
    ),
    broken(
        "gradient clipped at 100",
        "linear",
        square_forward,
        clips(100.0),
        vector,
        "https://github.com/junhyukoh/caffe-lstm/issues/18",
        "no dout of order one meets it",
    ),
    broken("dout brought to a fixed norm", "linear", square_forward, normalises, vector),
    broken("small dout dropped", "linear", square_forward, drops_small, vector, note="no dout of order one meets it"),
    broken(
        "dout not used",
        "zero",
        square_forward,
        ignores_dout,
        vector,
        "https://github.com/tenstorrent/tt-metal/issues/6533",
        "there in ldexp: right for a dout of ones",
    ),
    broken(
        "input of the last forward used",
        "call order",
        global_forward,
        global_backward,
        factors,
        "https://github.com/torch/nn/issues/1015",
        "a layer used twice gets the gradient of its second use",
    ),
    broken(
        "gradient added up in the cache",
        "repeat",
        accumulating_forward,
        accumulates_in_cache,
        factors,
        "https://github.com/karpathy/micrograd/issues/53",
    ),
    broken(
        "gradient added up for ever",
        "repeat",
        linear_forward,
        accumulates_for_ever,
        factors,
        "https://github.com/torch/cunn/pull/212",
        "there the buffers of a second GPU",
    ),
    broken("gradient of the first dout kept", "linear", dict_cache, keeps_first, vector),
    broken(
        "repeats lost in a race",
        "repeat",
        lookup_forward,
        races,
        many_ids,
        "https://github.com/apache/mxnet/issues/11899",
    ),
    broken("stochastic rounding", "repeat", square_forward, noisy, vector),
    broken("zero on every other call", "repeat", square_forward, every_other_call, vector),
]
