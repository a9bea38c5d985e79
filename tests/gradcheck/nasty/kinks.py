"""Kinks, jumps and borders of the domain: near, far, and exactly at the point."""

from functools import partial

import numpy as np

from tests.gradcheck.example import correct, normal

SMALL = np.array([1e-4, -1e-5, 1e-6, -1e-7])


def near(kinks, seed=201, size=40):
    """Draw values, four of them within 1e-4 to 1e-7 of a kink."""
    (x,) = normal(seed, (size,))
    x[:4] = kinks + SMALL
    return x


def relu_forward(x):
    return np.maximum(x, 0), x


def relu_backward(dout, x):
    return dout * (x > 0)


def leaky_forward(x):
    return np.where(x > 0, x, 0.01 * x), x


def leaky_backward(dout, x):
    return dout * np.where(x > 0, 1, 0.01)


def abs_forward(x):
    return np.abs(x), x


def abs_backward(dout, x):
    return dout * np.sign(x)


def clip_forward(x):
    return np.clip(x, -0.5, 0.5), x


def clip_backward(dout, x):
    return dout * ((x > -0.5) & (x < 0.5))


def hinge_forward(scores, y):
    return np.maximum(0, 1 - y * scores).mean(), (scores, y)


def hinge_backward(dloss, cache):
    scores, y = cache
    return dloss * np.where(y * scores < 1, -y, 0) / scores.size


def hinge_args():
    x = near(1.0, 202)
    return x, np.ones(x.shape, dtype=np.int64)


def maxpool_forward(x):
    return x.max(axis=1), x


def maxpool_backward(dout, x):
    return dout[:, None] * (np.arange(x.shape[1]) == x.argmax(axis=1)[:, None])


def close_windows():
    (x,) = normal(203, (10, 4))
    x[0, :2], x[1, 1:3] = (3, 3 + 1e-6), (3 - 1e-5, 3)
    return (x,)


def tied_windows():
    (x,) = normal(203, (10, 4))
    x[0, :2] = 3
    return (x,)


def sort_forward(x):
    order = np.argsort(x)
    return np.sort(x) * np.arange(1, len(x) + 1), order


def sort_backward(dout, order):
    dx = np.empty_like(dout)
    dx[order] = dout * np.arange(1, len(dout) + 1)
    return dx


def close_values():
    (x,) = normal(204, (20,))
    x[3] = x[7] + 1e-5
    return (x,)


def huber_forward(x):
    d = np.abs(x)
    return np.where(d < 1, 0.5 * d * d, d - 0.5), x


def huber_backward(dout, x):
    return dout * np.clip(x, -1, 1)


def norm_forward(x):
    return np.sqrt((x * x).sum(axis=1)), x


def norm_backward(dout, x):
    norm = np.sqrt((x * x).sum(axis=1, keepdims=True))
    return dout[:, None] * x / np.where(norm == 0, 1, norm)


def one_zero_vector():
    (x,) = normal(205, (8, 3))
    x[2] = 0
    return (x,)


def sqrt_forward(x):
    return np.sqrt(x), x


def sqrt_backward(dout, x):
    return dout / (2 * np.sqrt(x))


def log_forward(x):
    return np.log(x), x


def log_backward(dout, x):
    return dout / x


def xlogx_forward(p):
    return -(p * np.log(p)).sum(), p


def xlogx_backward(dout, p):
    return -dout * (np.log(p) + 1)


def arcsin_forward(x):
    return np.arcsin(x), x


def arcsin_backward(dout, x):
    return dout / np.sqrt((1 - x) * (1 + x))


def cube_forward(x):
    return np.abs(x) ** 3, x


def cube_backward(dout, x):
    return dout * 3 * x * np.abs(x)


def relu2_forward(x):
    return np.maximum(x, 0) ** 2, x


def relu2_backward(dout, x):
    return 2 * dout * np.maximum(x, 0)


def jump_forward(x):
    """Jump by a million where x passes 10."""
    return np.sin(x) + np.where(x > 10, 1e6, 0), x


def jump_backward(dout, x):
    return dout * np.cos(x)


def floor_forward(x):
    return np.floor(x) + x, None


def floor_backward(dout, cache):
    return dout.copy()


def with_zero(*places, seed=206):
    (x,) = normal(seed, (30,))
    for place in places:
        x[place] = 0
    return (x,)


NASTY = [
    correct(
        "relu, 1e-4 to 1e-7 from its kink", relu_forward, relu_backward, lambda: (near(0.0),), "a step over the kink"
    ),
    correct("leaky relu near its kink", leaky_forward, leaky_backward, lambda: (near(0.0),), "a step over the kink"),
    correct(
        "abs near its kink",
        abs_forward,
        abs_backward,
        lambda: (near(0.0),),
        "a step over the kink; not for complex steps",
    ),
    correct(
        "clip near its limits",
        clip_forward,
        clip_backward,
        lambda: (near(np.array([0.5, -0.5, 0.5, -0.5])),),
        "a step over",
        step=1e-9,
        rtol=1e-8,
    ),
    correct(
        "hinge near its margin",
        hinge_forward,
        hinge_backward,
        hinge_args,
        "a step over the kink, and a mean that shrinks it",
        step=1e-9,
        rtol=1e-8,
    ),
    correct(
        "max-pool with windows nearly tied",
        maxpool_forward,
        maxpool_backward,
        close_windows,
        "a step changes the winner",
        step=1e-8,
        rtol=1e-8,
    ),
    correct(
        "sort with two values nearly equal",
        sort_forward,
        sort_backward,
        close_values,
        "a step changes the order",
        step=1e-7,
        rtol=1e-8,
    ),
    correct(
        "huber on its joint",
        huber_forward,
        huber_backward,
        lambda: (np.array([1.0, -1.0, 0.5, 1 + 1e-7, -3.0]),),
        "continuous slope, jump in the second derivative",
        step=1e-9,
        rtol=1e-7,
    ),
    correct(
        "relu with one element at zero",
        relu_forward,
        relu_backward,
        partial(with_zero, 7),
        "no derivative there",
        inconclusive_ok=True,
        kink=True,
    ),
    correct(
        "max with one exact tie",
        maxpool_forward,
        maxpool_backward,
        tied_windows,
        "any share is a subgradient",
        inconclusive_ok=True,
        kink=True,
    ),
    correct(
        "norm of one zero vector",
        norm_forward,
        norm_backward,
        one_zero_vector,
        "zero is a subgradient",
        inconclusive_ok=True,
        kink=True,
    ),
    correct(
        "sqrt near zero",
        sqrt_forward,
        sqrt_backward,
        lambda: (np.array([1e-8, 1e-6, 0.3, 2.0]),),
        "a step of its usual size leaves the domain",
    ),
    correct(
        "log near zero",
        log_forward,
        log_backward,
        lambda: (np.array([1e-6, 1e-5, 0.7, 3.0]),),
        "a step of its usual size leaves the domain",
    ),
    correct(
        "entropy with a tiny probability",
        xlogx_forward,
        xlogx_backward,
        lambda: (np.array([1e-7, 0.2, 0.3, 0.5 - 1e-7]),),
        "NaN on the other side of zero",
    ),
    correct(
        "arcsin near one",
        arcsin_forward,
        arcsin_backward,
        lambda: (np.array([1 - 1e-6, -1 + 1e-5, 0.3]),),
        "NaN beyond one, steep before it",
        rtol=1e-6,
        step=1e-8,
    ),
    correct(
        "|x|^3 at zero",
        cube_forward,
        cube_backward,
        partial(with_zero, 3, 4),
        "looks like a kink, and has a derivative",
    ),
    correct(
        "relu squared at zero",
        relu2_forward,
        relu2_backward,
        partial(with_zero, 3, 4),
        "one-sided slopes differ by a step",
        step=1e-9,
        rtol=1e-8,
    ),
    correct(
        "a jump far away",
        jump_forward,
        jump_backward,
        lambda: (np.array([0.1, 4.0, 9.5, 10.5]),),
        "a long step would meet it",
    ),
    correct(
        "floor, away from its steps",
        floor_forward,
        floor_backward,
        lambda: (np.array([0.3, 1.7, -2.4, 0.99]),),
        "piecewise constant part; not for complex steps",
    ),
]
