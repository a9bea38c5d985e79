"""Activations and dropout: wrong constants, derivatives taken at the wrong place, masks that are not the forward's."""

import math
from functools import partial

import numpy as np

from tests.gradcheck.example import normal, planted

SCALE, CUBIC = math.sqrt(2 / math.pi), 0.044715


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu_new_forward(x):
    tanh = np.tanh(SCALE * (x + CUBIC * x**3))
    return 0.5 * x * (1 + tanh), (x, tanh)


def gelu_new_backward(dout, cache, slip=""):
    x, tanh = cache
    du = SCALE * (1 + 3 * CUBIC * x * x)
    match slip:
        case "sqrt(2 / pi) as 0.7979":
            du = 0.7979 * (1 + 3 * CUBIC * x * x)
        case "factor 3 of the cube missing":
            du = SCALE * (1 + CUBIC * x * x)
        case "0.044715 as 0.0447":
            du = SCALE * (1 + 3 * 0.0447 * x * x)
        case "derivative of the other GELU":
            return dout * (sigmoid(1.702 * x) * (1 + 1.702 * x * (1 - sigmoid(1.702 * x))))
        case "term with du missing":
            du = 0
    return dout * (0.5 * (1 + tanh) + 0.5 * x * (1 - tanh * tanh) * du)


def silu_forward(x):
    return x * sigmoid(x), x


def silu_backward(dout, x, slip=""):
    s = sigmoid(x)
    match slip:
        case "parentheses missing":
            e = np.exp(-x)
            return dout * (1 + e + x * e / (1 + e) ** 2)
        case "sigmoid of the output":
            s = sigmoid(x * s)
        case "x forgotten in the second term":
            return dout * s * (1 + (1 - s))
    return dout * s * (1 + x * (1 - s))


def swish_forward(x, beta):
    """Gate with a slope for each channel: beta is broadcast over the batch."""
    s = sigmoid(beta * x)
    return x * s, (x, beta, s)


def swish_backward(dout, cache, slip=""):
    x, beta, s = cache
    dbeta = dout * x * x * s * (1 - s)
    dbeta = np.full_like(beta, dbeta.sum()) if slip == "dbeta summed over the channels too" else dbeta.sum(axis=0)
    return dout * (s + beta * x * s * (1 - s)), dbeta


def elu_forward(x, alpha):
    y = np.where(x > 0, x, alpha * (np.exp(x) - 1))
    return y, (x, y, alpha)


def elu_backward(dout, cache, slip=""):
    x, y, alpha = cache
    positive = y > 0 if slip == "branch by the sign of the output" else x > 0
    slope = y + 1 if slip == "alpha taken as 1" else y + alpha
    return dout * np.where(positive, np.ones_like(y), slope)


def prelu_forward(x, slope):
    """One slope for each channel of (B, C, T)."""
    return np.where(x > 0, x, x * slope[:, None]), (x, slope)


def prelu_backward(dout, cache, slip=""):
    x, slope = cache
    negative = np.where(x > 0, 0, x)
    match slip:
        case "slope by the last axis, not by channel":
            return dout * np.where(x > 0, 1, slope), (dout * negative).sum(axis=(0, 1))
        case "dslope also where x is positive":
            return dout * np.where(x > 0, 1, slope[:, None]), (dout * x).sum(axis=(0, 2))
        case "branch by the sign of the output":
            outside = np.where(x > 0, x, x * slope[:, None]) > 0
            return dout * np.where(outside, 1, slope[:, None]), (dout * np.where(outside, 0, x)).sum(axis=(0, 2))
    return dout * np.where(x > 0, 1, slope[:, None]), (dout * negative).sum(axis=(0, 2))


def tanh_forward(x):
    return np.tanh(x), x


def tanh_backward(dout, x, slip=""):
    if slip == "1 - x^2 for 1 - tanh(x)^2":
        return dout * (1 - x * x)
    return dout * (1 - np.tanh(x) ** 2)


def sigmoid_forward(x):
    return sigmoid(x), sigmoid(x)


def sigmoid_backward(dout, y, slip=""):
    match slip:
        case "derivative at the output":
            y = sigmoid(y)
        case "sigmoid itself for its derivative":
            return dout * y
        case "1 - s missing":
            return dout * y * y
    return dout * y * (1 - y)


def softplus_forward(x, beta=2.0, threshold=0.5):
    """Go over to x itself where beta x is above the threshold; this low, the step there is there for all to see."""
    soft = np.log1p(np.exp(np.minimum(beta * x, threshold))) / beta
    y = np.where(beta * x > threshold, x, soft)
    return y, (x, y, beta, threshold)


def softplus_backward(dout, cache, slip=""):
    x, y, beta, threshold = cache
    z = y if slip == "threshold on the output" else x
    soft = sigmoid(x if slip == "beta forgotten" else beta * x)
    return dout * np.where(beta * z > threshold, 1, soft)


def hardsigmoid_forward(x):
    return np.clip(x / 6 + 0.5, 0, 1), x


def hardsigmoid_backward(dout, x, slip=""):
    match slip:
        case "lower limit forgotten":
            return dout * (x < 3) / 6
        case "slope 1 for 1/6":
            return dout * (np.abs(x) < 3)
    return dout * (np.abs(x) < 3) / 6


def glu_forward(x):
    gate, up = np.split(x, 2, axis=-1)
    s = sigmoid(gate)
    return gate * s * up, (gate, up, s)


def glu_backward(dout, cache, slip=""):
    gate, up, s = cache
    dgate, dup = dout * up * s * (1 + gate * (1 - s)), dout * gate * s
    return np.concatenate((dup, dgate) if slip == "halves swapped" else (dgate, dup), axis=-1)


def dropout_forward(x, keep, seed):
    mask = (np.random.default_rng(seed).random(x.shape) < keep).astype(x.dtype)
    y = x * mask / keep
    return y, (x, y, mask, keep)


def dropout_backward(dout, cache, slip=""):
    x, y, mask, keep = cache
    match slip:
        case "scale missing":
            return dout * mask
        case "mask missing":
            return dout / keep
        case "another mask":
            mask = (np.random.default_rng(1).random(x.shape) < keep).astype(x.dtype)
        case "scaled twice":
            return dout * mask / keep**2
        case "mask read off output and input":
            return dout * np.where(x == 0, 1, y / np.where(x == 0, 1, x))
    return dout * mask / keep


def with_zeros():
    (x,) = normal(28, (4, 5))
    x[1, 2] = x[3] = 0
    return x, 0.5, 0


gelu_new = partial(
    planted, "gelu_new", forward=gelu_new_forward, right=gelu_new_backward, args=partial(normal, 21, (4, 5))
)
silu = partial(planted, "silu", forward=silu_forward, right=silu_backward, args=partial(normal, 22, (7,)))
elu = partial(planted, "elu", forward=elu_forward, right=elu_backward)
prelu = partial(planted, "prelu", forward=prelu_forward, right=prelu_backward)
sigmoid_bug = partial(
    planted, "sigmoid", forward=sigmoid_forward, right=sigmoid_backward, args=partial(normal, 25, (6,))
)
softplus = partial(
    planted, "softplus", forward=softplus_forward, right=softplus_backward, args=partial(normal, 26, (12,))
)
hardsigmoid = partial(
    planted,
    "hardsigmoid",
    forward=hardsigmoid_forward,
    right=hardsigmoid_backward,
    args=lambda: (4 * normal(30, (12,))[0],),
)
dropout = partial(planted, "dropout", forward=dropout_forward, right=dropout_backward)

BUGS = [
    gelu_new("sqrt(2 / pi) as 0.7979", note="2e-5: float32 would not show it"),
    gelu_new("factor 3 of the cube missing"),
    gelu_new("0.044715 as 0.0447"),
    gelu_new(
        "derivative of the other GELU",
    ),
    gelu_new("term with du missing"),
    silu("parentheses missing", source="https://github.com/chelsea0x3b/dfdx/pull/915"),
    silu("sigmoid of the output"),
    silu("x forgotten in the second term"),
    planted(
        "swish",
        "dbeta summed over the channels too",
        swish_forward,
        swish_backward,
        partial(normal, 23, (4, 3), (3,)),
        source="https://github.com/tensorflow/tensorflow/issues/127690",
    ),
    elu(
        "branch by the sign of the output",
        args=lambda: (*normal(24, (4, 3)), -2.0),
        source="https://github.com/pytorch/pytorch/issues/47671",
        note="shows for a negative alpha alone",
    ),
    elu("alpha taken as 1", args=lambda: (*normal(24, (4, 3)), 1.5)),
    prelu(
        "slope by the last axis, not by channel",
        args=partial(normal, 29, (2, 3, 3), (3,)),
        source="https://github.com/flagos-ai/FlagGems/issues/4992",
        note="silent where C = T",
    ),
    prelu("dslope also where x is positive", args=partial(normal, 29, (2, 3, 4), (3,))),
    prelu(
        "branch by the sign of the output",
        args=partial(normal, 29, (2, 3, 4), (3,)),
        source="https://github.com/PaddlePaddle/Paddle/pull/12538",
        note="shows for a negative slope alone",
    ),
    planted(
        "tanh",
        "1 - x^2 for 1 - tanh(x)^2",
        tanh_forward,
        tanh_backward,
        partial(normal, 27, (5,)),
        source="https://github.com/mlpack/mlpack/pull/2158",
        note="there a derivative that wants the output",
    ),
    sigmoid_bug("derivative at the output"),
    sigmoid_bug("sigmoid itself for its derivative", source="https://github.com/CaptainE/RNN-LSTM-in-numpy/issues/1"),
    sigmoid_bug("1 - s missing"),
    softplus("beta forgotten"),
    softplus("threshold on the output", source="https://github.com/pytorch/pytorch/issues/55587"),
    hardsigmoid("lower limit forgotten", source="https://github.com/pytorch/pytorch/issues/51408"),
    hardsigmoid("slope 1 for 1/6"),
    planted("swiglu", "halves swapped", glu_forward, glu_backward, partial(normal, 31, (3, 8))),
    dropout("scale missing", args=lambda: (*normal(28, (4, 5)), 0.5, 0)),
    dropout(
        "mask missing",
        args=lambda: (*normal(28, (4, 5)), 0.5, 0),
        source="https://github.com/ddbourgin/numpy-ml/issues/94",
    ),
    dropout(
        "another mask",
        args=lambda: (*normal(28, (4, 5)), 0.5, 0),
        source="https://github.com/Benny-Nottonson/voodoo/issues/19",
        note="drawn anew in the backward",
    ),
    dropout("scaled twice", args=lambda: (*normal(28, (4, 5)), 0.5, 0)),
    dropout(
        "mask read off output and input",
        args=with_zeros,
        source="https://github.com/kaldi-asr/kaldi/issues/3890",
        note="wrong where x is zero and dropped, and nowhere else",
    ),
]
