"""Numbers: tiny, huge, mixed, far from zero, cancelling, saturated, noisy."""

from functools import partial

import numpy as np

from tests.gradcheck.bugs.attention import softmax
from tests.gradcheck.bugs.losses import cross_entropy_backward, cross_entropy_forward
from tests.gradcheck.bugs.norms import l2_backward, l2_forward
from tests.gradcheck.example import correct, normal


def layernorm_forward(x, weight, eps=1e-5):
    centred = x - x.mean(axis=-1, keepdims=True)
    rstd = 1 / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + eps)
    return centred * rstd * weight, (centred * rstd, rstd, weight)


def layernorm_backward(dout, cache):
    xhat, rstd, weight = cache
    d = dout * weight
    dx = rstd * (d - d.mean(axis=-1, keepdims=True) - xhat * (d * xhat).mean(axis=-1, keepdims=True))
    return dx, (dout * xhat).sum(axis=0)


def flat_rows(scale, offset=0.0):
    x, weight = normal(211, (3, 6), (6,))
    return offset + scale * x, weight


def variance_forward(x):
    return x.var(axis=-1), x


def variance_backward(dout, x):
    return 2 * dout[:, None] * (x - x.mean(axis=-1, keepdims=True)) / x.shape[-1]


def batchnorm_forward(x):
    centred = x - x.mean(axis=0)
    rstd = 1 / np.sqrt((centred * centred).mean(axis=0) + 1e-5)
    return centred * rstd, (centred, rstd)


def batchnorm_backward(dout, cache):
    """Leave out d var / d mean, as Darknet does: the sum that it multiplies is zero."""
    centred, rstd = cache
    N = len(dout)
    dvar = (dout * centred).sum(axis=0) * -0.5 * rstd**3
    dmean = -(dout * rstd).sum(axis=0)
    return dout * rstd + dvar * 2 * centred / N + dmean / N


def softmax_forward(x):
    return softmax(x), softmax(x)


def softmax_backward(dout, probs):
    return probs * (dout - (dout * probs).sum(axis=-1, keepdims=True))


def logsumexp_forward(x):
    top = x.max(axis=-1, keepdims=True)
    return np.log(np.exp(x - top).sum(axis=-1)) + top[:, 0], x


def logsumexp_backward(dout, x):
    return dout[:, None] * softmax(x)


def softplus_forward(x):
    return np.logaddexp(x, 0 * x), x


def softplus_backward(dout, x):
    return dout * np.exp(-np.logaddexp(-x, 0 * x))


def expm1_forward(x):
    return np.expm1(x), x


def expm1_backward(dout, x):
    return dout * np.exp(x)


def log1p_forward(x):
    return np.log1p(x), x


def log1p_backward(dout, x):
    return dout / (1 + x)


def scaled_tanh(scale):
    return (lambda x: (scale * np.tanh(x), x)), (lambda dout, x: dout * scale * (1 - np.tanh(x) ** 2))


def powers_forward(x):
    return np.sqrt(x) + x * np.log(x), x


def powers_backward(dout, x):
    return dout * (0.5 / np.sqrt(x) + np.log(x) + 1)


def outputs_forward(x):
    """Give one output of 1e6 and one of 1e-6 for each input."""
    return np.stack((1e6 * np.cos(x), 1e-6 * np.sin(x))), x


def outputs_backward(dout, x):
    return -dout[0] * 1e6 * np.sin(x) + dout[1] * 1e-6 * np.cos(x)


def two_scales_forward(a, b):
    """Multiply what is tiny with what is huge."""
    return a * b, (a, b)


def two_scales_backward(dout, cache):
    a, b = cache
    return dout * b, dout * a


def two_scales():
    a, b = normal(219, (5,), (5,))
    return 1e-8 * a, 1e8 * b


def sigmoid_forward(x):
    s = 1 / (1 + np.exp(-x))
    return s, s


def sigmoid_backward(dout, s):
    return dout * s * (1 - s)


def expanded_forward(x):
    """Expand (x - 1)^4: near 1 all digits cancel."""
    return x**4 - 4 * x**3 + 6 * x**2 - 4 * x + 1, x


def expanded_backward(dout, x):
    return dout * 4 * (x - 1) ** 3


def noisy_forward(x):
    """Go through a number of 1e8, so that eight digits of sin are left."""
    return (np.sin(x) + 1e8) - 1e8, x


def sin_forward(x):
    return np.sin(x), x


def sin_backward(dout, x):
    return dout * np.cos(x)


def confident():
    (logits,) = normal(214, (4, 5))
    targets = np.array([0, 3, 3, 1])
    logits[np.arange(4), targets] += 16
    return logits, targets


TINY_F, TINY_B = scaled_tanh(1e-12)
TINIER_F, TINIER_B = scaled_tanh(1e-30)
HUGE_F, HUGE_B = scaled_tanh(1e30)

NASTY = [
    correct(
        "layernorm of nearly constant rows",
        layernorm_forward,
        layernorm_backward,
        partial(flat_rows, 1e-3, 1.0),
        "variance of 1e-6, below eps",
        step=1e-6,
    ),
    correct(
        "layernorm of rows with variance 1e-12",
        layernorm_forward,
        layernorm_backward,
        partial(flat_rows, 1e-6),
        "variance far below eps; everything linear at the scale of x",
        step=1e-3,
    ),
    correct(
        "layernorm around 1e6",
        layernorm_forward,
        layernorm_backward,
        partial(flat_rows, 1.0, 1e6),
        "six digits lost in the mean",
        rtol=1e-6,
    ),
    correct(
        "variance around 1e6",
        variance_forward,
        variance_backward,
        lambda: (1e6 + normal(215, (2, 6))[0],),
        "six digits lost in the mean",
        rtol=1e-6,
    ),
    correct(
        "batch norm without the term that is zero",
        batchnorm_forward,
        batchnorm_backward,
        partial(normal, 216, (6, 3)),
        "looks like a missing term",
        "https://github.com/pjreddie/darknet/pull/29",
    ),
    correct(
        "l2 normalisation of a vector of 1e-4",
        l2_forward,
        l2_backward,
        lambda: (1e-4 * normal(217, (3, 4))[0],),
        "curved at the scale of x, eps 0.1 above it",
        step=1e-3,
    ),
    correct(
        "softmax with scores 40 apart",
        softmax_forward,
        softmax_backward,
        lambda: (12 * normal(218, (4, 6))[0],),
        "most gradients below 1e-10",
    ),
    correct(
        "logsumexp of 800",
        logsumexp_forward,
        logsumexp_backward,
        lambda: (800 + normal(220, (3, 4))[0],),
        "exp overflows without the shift",
    ),
    correct(
        "softplus at 40 and -40",
        softplus_forward,
        softplus_backward,
        lambda: (np.array([40.0, -40.0, 0.0, 3.0, -3.0]),),
        "a slope of 4e-18 beside slopes of one",
    ),
    correct(
        "expm1 near zero",
        expm1_forward,
        expm1_backward,
        lambda: (np.array([1e-8, -1e-10, 1e-3, 0.5]),),
        "stable at 1e-10",
    ),
    correct(
        "log1p near zero",
        log1p_forward,
        log1p_backward,
        lambda: (np.array([1e-10, -1e-8, 1e-3, 0.5]),),
        "stable at 1e-10",
    ),
    correct("tanh of size 1e-12", TINY_F, TINY_B, partial(normal, 221, (5,)), "below any absolute tolerance"),
    correct("tanh of size 1e-30", TINIER_F, TINIER_B, partial(normal, 221, (5,)), "below any absolute tolerance"),
    correct("tanh of size 1e30", HUGE_F, HUGE_B, partial(normal, 221, (5,)), "above any absolute tolerance"),
    correct(
        "sqrt(x) + x log x from 1e-6 to 1e6",
        powers_forward,
        powers_backward,
        lambda: (10.0 ** np.arange(-6, 7),),
        "one step for all is too long or too short",
    ),
    correct(
        "outputs of 1e6 and 1e-6", outputs_forward, outputs_backward, partial(normal, 222, (4,)), "twelve digits apart"
    ),
    correct(
        "arguments of 1e-8 and 1e8",
        two_scales_forward,
        two_scales_backward,
        two_scales,
        "gradients sixteen digits apart",
        rtol=1e-7,
    ),
    correct(
        "sigmoid at 40",
        sigmoid_forward,
        sigmoid_backward,
        lambda: (np.array([40.0, -40.0, 37.0, 0.5]),),
        "s (1 - s) is exactly zero at 40",
        "https://github.com/tenstorrent/tt-metal/issues/55724",
    ),
    correct(
        "cross entropy of confident logits",
        cross_entropy_forward,
        cross_entropy_backward,
        confident,
        "gradients of 1e-7",
        rtol=1e-7,
    ),
    correct(
        "(x - 1)^4 expanded",
        expanded_forward,
        expanded_backward,
        lambda: (np.array([1.01, 0.99, 1.02]),),
        "the value has one digit",
        inconclusive_ok=True,
        rtol=1e-5,
    ),
    correct(
        "sin with eight digits",
        noisy_forward,
        sin_backward,
        partial(normal, 223, (5,)),
        "relative noise of 1e-8",
        inconclusive_ok=True,
        exact=sin_forward,
    ),
]
