"""Reductions, powers and branches: zeros, ties, branches not taken, counts, signs."""

from functools import partial

import numpy as np

from tests.gradcheck.example import normal, planted

QUIET = {"divide": "ignore", "invalid": "ignore", "over": "ignore"}


def prod_forward(x):
    return x.prod(axis=1), x


def prod_backward(dout, x, slip=""):
    with np.errstate(**QUIET):
        quotient = x.prod(axis=1, keepdims=True) / x
    match slip:
        case "product over x":
            return dout[:, None] * quotient
        case "product over x, NaN made zero":
            return dout[:, None] * np.where(x == 0, 0, quotient)
    others = np.stack([np.delete(x, i, axis=1).prod(axis=1) for i in range(x.shape[1])], axis=1)
    return dout[:, None] * others


def cumprod_forward(x):
    return np.cumprod(x), x


def cumprod_backward(dout, x, slip=""):
    with np.errstate(**QUIET):
        quotient = np.cumsum((dout * np.cumprod(x))[::-1])[::-1] / x
    match slip:
        case "divided by x":
            return quotient
        case "divided by x, zero at zero":
            return np.where(x == 0, 0, quotient)
    left = np.concatenate((np.ones(1, x.dtype), np.cumprod(x)[:-1]))
    tail = dout.copy()
    for i in reversed(range(len(x) - 1)):
        tail[i] = dout[i] + x[i + 1] * tail[i + 1]
    return left * tail


def mean_forward(x):
    return (x * x).mean(axis=(0, 2)), x


def mean_backward(dout, x, slip=""):
    N = x.shape[0] if slip == "divided by the first axis alone" else x.shape[0] * x.shape[2]
    if slip == "divided by all elements":
        N = x.size
    return 2 * x * dout[:, None] / N


def var_forward(x):
    return x.var(axis=1, ddof=1), x


def var_backward(dout, x, slip=""):
    centred = x - x.mean(axis=1, keepdims=True)
    match slip:
        case "N for N - 1":
            return 2 * dout[:, None] * centred / x.shape[1]
        case "mean not subtracted":
            centred = x
    return 2 * dout[:, None] * centred / (x.shape[1] - 1)


def norm_forward(x):
    return np.sqrt((x * x).sum(axis=1)), x


def norm_backward(dout, x, slip=""):
    norm = np.sqrt((x * x).sum(axis=1, keepdims=True))
    with np.errstate(**QUIET):
        unit = x / norm
    if slip == "zero vector gives NaN":
        return dout[:, None] * unit
    return dout[:, None] * np.where(norm == 0, 0, unit)


def max_forward(x):
    return x.max(axis=1), x


def max_backward(dout, x, slip=""):
    top = x == x.max(axis=1, keepdims=True)
    match slip:
        case "ties all take the whole gradient":
            return dout[:, None] * top
        case "indices of the wrong axis":
            return dout[:, None] * (x == x.max(axis=0))
    return dout[:, None] * top / top.sum(axis=1, keepdims=True)


def where_forward(x):
    with np.errstate(**QUIET):
        return np.where(x > 0, np.sqrt(x), 2 * x), x


def where_backward(dout, x, slip=""):
    root = np.sqrt(np.abs(x))
    match slip:
        case "branch not taken multiplied by zero":
            with np.errstate(**QUIET):
                return dout * ((x > 0) * 0.5 / np.sqrt(x) + (x <= 0) * 2)
        case "slope of the other branch":
            return dout * np.where(x > 0, 2, 0.5 / root)
    return dout * np.where(x > 0, 0.5 / root, 2)


def clip_forward(x, low, high):
    return np.clip(x, low, high), (x, low, high)


def clip_backward(dout, cache, slip=""):
    x, low, high = cache
    inside = (x > low) & (x < high)
    match slip:
        case "comparisons the wrong way round":
            inside = (x <= low) & (x >= high)
        case "upper limit forgotten":
            inside = x > low
        case "handed through":
            inside = np.ones_like(inside)
    return dout * inside


def pow_forward(x, p):
    return x**p, (x, p)


def pow_backward(dout, cache, slip=""):
    x, p = cache
    with np.errstate(**QUIET):
        log = np.log(x)
        dp = dout * x**p * log
    dp = dp if slip == "log of a zero base" else np.where(x == 0, 0, dp)
    exponent = p if slip == "exponent not lowered" else p - 1
    return dout * p * x**exponent, dp


def divide_forward(a, b):
    return a / b, (a, b)


def divide_backward(dout, cache, slip=""):
    a, b = cache
    db = -dout * a / b**2
    match slip:
        case "sign of db":
            db = -db
        case "b not squared":
            db = -dout * a / b
    return dout / b, db


def atan2_forward(y, x):
    return np.arctan2(y, x), (y, x)


def atan2_backward(dout, cache, slip=""):
    y, x = cache
    r2 = x * x + y * y
    match slip:
        case "sign of dx":
            return dout * x / r2, dout * y / r2
        case "arguments swapped":
            return -dout * y / r2, dout * x / r2
    return dout * x / r2, -dout * y / r2


def abs_forward(x):
    return np.abs(x), x


def abs_backward(dout, x, slip=""):
    with np.errstate(**QUIET):
        return dout * (x / np.abs(x) if slip == "x / |x| at zero" else np.sign(x))


def sqrt_forward(x):
    return np.sqrt(x), x


def sqrt_backward(dout, x, slip=""):
    root = np.sqrt(x)
    return dout / (root if slip == "2 forgotten" else 2 * root)


def with_zeros(*places):
    x = normal(121, (3, 4))[0]
    for place in places:
        x[place] = 0
    return (x,)


def ties():
    return (np.array([[1.0, 3.0, 3.0], [2.0, -1.0, 0.5], [0.5, 0.5, 0.5]]),)


def positive(seed, *shapes):
    return tuple(np.abs(x) + 0.5 for x in normal(seed, *shapes))


prod = partial(
    planted, "prod", forward=prod_forward, right=prod_backward, args=partial(with_zeros, (0, 1), (1, 0), (1, 2))
)
cumprod = partial(
    planted,
    "cumprod",
    forward=cumprod_forward,
    right=cumprod_backward,
    args=lambda: (np.array([2.0, 0, 3, -1.5, 0, 4]),),
)
clip = partial(planted, "clip", forward=clip_forward, right=clip_backward, args=lambda: (*normal(123, (9,)), -0.5, 0.6))

BUGS = [
    prod("product over x", source="https://github.com/apache/mxnet/issues/17864"),
    prod("product over x, NaN made zero", source="https://github.com/tinygrad/tinygrad/pull/17404", note="there NaN"),
    cumprod("divided by x", source="https://github.com/tensorflow/tensorflow/issues/3862"),
    cumprod("divided by x, zero at zero", source="https://github.com/tensorflow/tensorflow/issues/119430"),
    planted(
        "mean of squares",
        "divided by the first axis alone",
        mean_forward,
        mean_backward,
        partial(normal, 124, (2, 3, 4)),
    ),
    planted("mean of squares", "divided by all elements", mean_forward, mean_backward, partial(normal, 124, (2, 3, 4))),
    planted("variance", "N for N - 1", var_forward, var_backward, partial(normal, 125, (2, 5))),
    planted("variance", "mean not subtracted", var_forward, var_backward, partial(normal, 125, (2, 5))),
    planted(
        "norm",
        "zero vector gives NaN",
        norm_forward,
        norm_backward,
        partial(with_zeros, 1),
        source="https://github.com/pytorch/pytorch/issues/2421",
        note="a kink, but NaN is no subgradient",
        kink=True,
    ),
    planted(
        "max",
        "ties all take the whole gradient",
        max_forward,
        max_backward,
        ties,
        source="https://github.com/Theano/Theano/issues/4568",
        note="outside of the subdifferential",
        kink=True,
    ),
    planted("max", "indices of the wrong axis", max_forward, max_backward, partial(normal, 128, (3, 3))),
    planted(
        "sqrt or 2x",
        "branch not taken multiplied by zero",
        where_forward,
        where_backward,
        lambda: (np.array([0.5, -1.0, 2.0, -0.3]),),
        source="https://github.com/pytorch/pytorch/issues/23395",
    ),
    planted(
        "sqrt or 2x",
        "slope of the other branch",
        where_forward,
        where_backward,
        lambda: (np.array([0.5, -1.0, 2.0, -0.3]),),
    ),
    clip("comparisons the wrong way round", source="https://github.com/tenstorrent/tt-metal/issues/48201"),
    clip("upper limit forgotten"),
    clip("handed through", note="the straight-through estimator, not the gradient"),
    planted(
        "power",
        "log of a zero base",
        pow_forward,
        pow_backward,
        lambda: (np.array([0.0, 2.0, 1.5]), np.array([2.0, 3.0, 0.5])),
        source="https://github.com/pytorch/pytorch/issues/27134",
    ),
    planted("power", "exponent not lowered", pow_forward, pow_backward, partial(positive, 129, (4,), (4,))),
    planted("division", "sign of db", divide_forward, divide_backward, partial(positive, 130, (4,), (4,))),
    planted("division", "b not squared", divide_forward, divide_backward, partial(positive, 130, (4,), (4,))),
    planted(
        "arctan2",
        "sign of dx",
        atan2_forward,
        atan2_backward,
        partial(normal, 131, (5,), (5,)),
        source="https://github.com/EnzymeAD/Enzyme-JAX/pull/2066",
    ),
    planted(
        "arctan2",
        "arguments swapped",
        atan2_forward,
        atan2_backward,
        partial(normal, 131, (5,), (5,)),
        source="https://github.com/ml-explore/mlx/pull/2453",
        note="there wrong in more than one way",
    ),
    planted(
        "abs",
        "x / |x| at zero",
        abs_forward,
        abs_backward,
        partial(with_zeros, (0, 0)),
        source="https://github.com/KhawajaAbaid/micrograd_c/issues/4",
        note="there 1 at zero; NaN is the common form",
        kink=True,
    ),
    planted("sqrt", "2 forgotten", sqrt_forward, sqrt_backward, partial(positive, 132, (4,))),
]
