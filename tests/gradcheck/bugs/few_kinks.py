"""Bugs beside a few kinks among thousands of elements, as exact zeros under a relu are."""

from functools import partial

import numpy as np

from tests.gradcheck.example import normal, planted


def sprinkled(seed, shape, every, value=0.0):
    """Draw normal numbers, one in `every` of them exactly at a kink, in no pattern that a sample could share."""
    (x,) = normal(seed, shape)
    picked = np.random.default_rng(seed).permutation(x.size)[: x.size // every]
    x.reshape(-1)[picked] = value
    return x


def relu_forward(x):
    return np.maximum(x, 0), x


def relu_backward(dout, x, slip=""):
    match slip:
        case "negative ones, too":
            return np.array(dout)
        case "a thousandth too large":
            return 1.001 * dout * (x > 0)
        case "twice dout at 0":
            return dout * np.where(x == 0, 2, x > 0)
        case "one of them wrong":
            mask = 1.0 * (x > 0)
            mask[3, 7] = 0.5
            return dout * mask
        case "last row lost":
            mask = x > 0
            mask[-1] = False
            return dout * mask
        case "NaN at 0":
            with np.errstate(invalid="ignore"):
                return dout * np.maximum(x, 0) / np.where(x > 0, x, np.minimum(x, 0))
    return dout * (x > 0)


def zeros():
    return (sprinkled(421, (30, 100), 100),)


def modulus_forward(x):
    return np.abs(x).sum(axis=1), x


def modulus_backward(dout, x, slip=""):
    match slip:
        case "slope of 1.5 at 0":
            return dout[:, None] * np.where(x == 0, 1.5, np.sign(x))
        case "one sign for a row":
            return dout[:, None] * np.sign(x[:, :1])
        case "a thousandth too small":
            return 0.999 * dout[:, None] * np.sign(x)
    return dout[:, None] * np.sign(x)


def pool_forward(x):
    """Take the largest of each window of four; after a relu many a window is nothing but zeros."""
    windows = x.reshape(-1, 4)
    return windows.max(axis=1), (windows, x.shape)


def pool_backward(dout, cache, slip=""):
    windows, shape = cache
    winner = np.arange(4) == windows.argmax(axis=1)[:, None]
    if slip == "last of those that tie, doubled":
        winner = 2 * (np.arange(4) == 3 - windows[:, ::-1].argmax(axis=1)[:, None])
    if slip == "all that tie":
        winner = windows == windows.max(axis=1, keepdims=True)
    if slip == "first of each window":
        winner = np.broadcast_to(np.arange(4) == 0, windows.shape)
    return (dout[:, None] * winner).reshape(shape)


def some_dead():
    """Draw numbers with one window in sixty tied at zero."""
    (x,) = normal(422, (600, 4))
    x = np.abs(x)
    x[::60] = 0
    return (x.reshape(20, 120),)


def linear_relu_forward(x, weight):
    """Take relu of a layer with rows of padding: their pre-activations are exactly 0."""
    z = x @ weight
    return np.maximum(z, 0), (x, weight, z)


def linear_relu_backward(dout, cache, slip=""):
    x, weight, z = cache
    d = dout * (z > 0)
    dweight = x.T @ d
    if slip == "dweight without its last rows":
        dweight[-3:] = 0
    if slip == "mask forgotten in dx":
        return dout @ weight.T, dweight
    return d @ weight.T, dweight


def padded_rows():
    x, weight = normal(423, (24, 60), (60, 5))
    x[[5, 17]] = 0
    return x, weight


def clip_forward(x):
    return np.clip(x, -1, 1), x


def clip_backward(dout, x, slip=""):
    inside = np.abs(x) < 1
    if slip == "sign turned at the limit":
        return dout * np.where(x == 1, -1, inside)
    if slip == "limits of 2":
        inside = np.abs(x) < 2
    return dout * inside


def at_the_limits():
    return (sprinkled(424, (40, 50), 80, 1.0),)


def shrink_forward(x, threshold):
    """Take soft thresholds, with some numbers exactly at theirs."""
    return np.sign(x) * np.maximum(np.abs(x) - threshold, 0), (x, threshold)


def shrink_backward(dout, cache, slip=""):
    x, threshold = cache
    over = np.abs(x) > threshold
    dthreshold = -(dout * over * np.sign(x)).sum(axis=0)
    if slip == "sign lost in dthreshold":
        dthreshold = -(dout * over).sum(axis=0)
    return dout if slip == "threshold forgotten in dx" else dout * over, dthreshold


def thresholds():
    return sprinkled(425, (40, 30), 60, 0.5), np.full(30, 0.5)


relu = partial(planted, "relu of 3,000, 30 zeros", forward=relu_forward, right=relu_backward, args=zeros, kink=True)
modulus = partial(
    planted, "moduli of 3,000, 30 zeros", forward=modulus_forward, right=modulus_backward, args=zeros, kink=True
)
pool = partial(
    planted, "max-pool of 600, 10 tied", forward=pool_forward, right=pool_backward, args=some_dead, kink=True
)
padded = partial(
    planted,
    "layer of relu, two rows of padding",
    forward=linear_relu_forward,
    right=linear_relu_backward,
    args=padded_rows,
    kink=True,
)
clip = partial(
    planted, "clip of 2,000, 25 at 1", forward=clip_forward, right=clip_backward, args=at_the_limits, kink=True
)
shrink = partial(
    planted,
    "soft thresholds, 20 of 1,200 met",
    forward=shrink_forward,
    right=shrink_backward,
    args=thresholds,
    kink=True,
)

BUGS = [
    relu("negative ones, too", called="a mask"),
    relu("a thousandth too large", called="a factor"),
    relu("twice dout at 0"),
    relu("one of them wrong", called="lost in some elements"),
    relu("last row lost", called="lost in the last row"),
    relu("NaN at 0", called="NaN"),
    modulus("slope of 1.5 at 0"),
    modulus("one sign for a row"),
    modulus("a thousandth too small", called="a factor"),
    pool("last of those that tie, doubled"),
    pool("all that tie"),
    pool("first of each window"),
    padded("dweight without its last rows", called="lost in the last rows"),
    padded("mask forgotten in dx", called="a mask"),
    clip("limits of 2", called="a mask"),
    clip("sign turned at the limit"),
    shrink("sign lost in dthreshold"),
    shrink("threshold forgotten in dx", called="a mask"),
]
