"""Bugs in the gradient of an argument whose numbers are all alike, as gains, biases and lengths are at first."""

from functools import partial

import numpy as np

from tests.gradcheck.bugs.attention import softmax
from tests.gradcheck.example import normal, planted


def gain_forward(x, g):
    return x * g, (x, g)


def gain_backward(dout, cache, slip=""):
    x, g = cache
    match slip:
        case "dg doubled":
            return dout * g, 2 * (dout * x).sum(axis=0)
        case "dg the batch's mean":
            return dout * g, (dout * x).mean(axis=0)
        case "dg times g":
            return dout * g, g * (dout * x).sum(axis=0)
        case "dg a millionth too large":
            return dout * g, (1 + 1e-6) * (dout * x).sum(axis=0)
    return dout * g, (dout * x).sum(axis=0)


def layernorm_forward(x, gain, bias):
    centred = x - x.mean(axis=-1, keepdims=True)
    rstd = 1 / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + 1e-5)
    return centred * rstd * gain + bias, (centred * rstd, rstd, gain)


def layernorm_backward(dout, cache, slip=""):
    xhat, rstd, gain = cache
    dgain, dbias = (dout * xhat).sum(axis=0), dout.sum(axis=0)
    match slip:
        case "dgain by x less its mean":
            dgain = (dout * xhat / rstd).sum(axis=0)
        case "dbias halved":
            dbias = dbias / 2
        case "dgain of the first row":
            dgain = dout[0] * xhat[0]
    d = dout * gain
    dx = rstd * (d - d.mean(axis=-1, keepdims=True) - xhat * (d * xhat).mean(axis=-1, keepdims=True))
    return dx, dgain, dbias


def layer_scale_forward(x, h, gamma):
    """Add a branch that begins at a millionth of its size, as in CaiT and ConvNeXt."""
    return x + gamma * np.tanh(h), (np.tanh(h), gamma)


def layer_scale_backward(dout, cache, slip=""):
    branch, gamma = cache
    dgamma = (dout * branch).sum(axis=0)
    if slip == "dgamma times gamma":
        dgamma = gamma * dgamma
    if slip == "dgamma through the tanh":
        dgamma = (dout * (1 - branch * branch)).sum(axis=0)
    return dout, dout * gamma * (1 - branch * branch), dgamma


def prelu_forward(x, alpha):
    return np.where(x > 0, x, alpha * x), (x, alpha)


def prelu_backward(dout, cache, slip=""):
    x, alpha = cache
    dalpha = dout * np.where(x > 0, 0, x)
    if slip == "dalpha of the positive ones, too":
        dalpha = dout * x
    return dout * np.where(x > 0, 1, alpha), dalpha.sum(axis=0)


def temperature_forward(scores, tau):
    """Divide each head's scores by a temperature of its own."""
    probs = softmax(scores / tau[:, None, None])
    return probs, (scores, probs, tau)


def temperature_backward(dout, cache, slip=""):
    scores, probs, tau = cache
    d = probs * (dout - (dout * probs).sum(axis=-1, keepdims=True))
    power = 1 if slip == "dtau over tau, not its square" else 2
    dtau = -(d * scores).sum(axis=(1, 2)) / tau**power
    return d / tau[:, None, None], -dtau if slip == "sign of dtau" else dtau


def rms_forward(x, gain):
    rstd = 1 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6)
    return x * rstd * gain, (x, rstd, gain)


def rms_backward(dout, cache, slip=""):
    x, rstd, gain = cache
    d, xhat = dout * gain, x * rstd
    dgain = (dout * (x if slip == "dgain by x" else xhat)).sum(axis=0)
    return rstd * (d - xhat * (d * xhat).mean(axis=-1, keepdims=True)), dgain


def batchnorm_forward(x, gain):
    """Normalise channels of (N, C, L) over batch and length."""
    centred = x - x.mean(axis=(0, 2), keepdims=True)
    rstd = 1 / np.sqrt((centred * centred).mean(axis=(0, 2), keepdims=True) + 1e-5)
    return centred * rstd * gain[:, None], (centred * rstd, rstd, gain)


def batchnorm_backward(dout, cache, slip=""):
    xhat, rstd, gain = cache
    d = dout * gain[:, None]
    dx = rstd * (d - d.mean(axis=(0, 2), keepdims=True) - xhat * (d * xhat).mean(axis=(0, 2), keepdims=True))
    if slip == "dgain over the batch, not the length":
        return dx, (dout * xhat).sum(axis=0)[:, 0]
    return dx, (dout * xhat).sum(axis=(0, 2))


def springs_forward(positions, k):
    """Sum the energies of a chain of springs of length 1."""
    stretch = np.diff(positions) - 1
    return 0.5 * (k * stretch**2).sum(), (stretch, k)


def springs_backward(dout, cache, slip=""):
    stretch, k = cache
    dstretch = dout * k * stretch
    dpositions = np.zeros(len(stretch) + 1, dtype=dstretch.dtype)
    dpositions[1:] += dstretch
    dpositions[:-1] -= dstretch
    return dpositions, dout * stretch**2 * (1.0 if slip == "dk without the half" else 0.5)


def tasks_forward(losses, log_variance):
    """Weigh losses by learnt variances, as Kendall, Gal and Cipolla do."""
    return (np.exp(-log_variance) * losses + 0.5 * log_variance).sum(), (losses, log_variance)


def tasks_backward(dout, cache, slip=""):
    losses, s = cache
    constant = 0.0 if slip == "the logarithm's half forgotten" else 0.5
    return dout * np.exp(-s), dout * (constant - np.exp(-s) * losses)


def ard_forward(x, length):
    """Take a Gaussian kernel with a length for each feature."""
    difference = x[:, None] - x[None]
    kernel = np.exp(-0.5 * (difference**2 / length**2).sum(axis=-1))
    return kernel, (difference, kernel, length)


def ard_backward(dout, cache, slip=""):
    difference, kernel, length = cache
    d = (dout * kernel)[..., None]
    dx = (-d * difference / length**2).sum(axis=1) + (d * difference / length**2).sum(axis=0)
    power = 2 if slip == "dlength over its square, not its cube" else 3
    return dx, (d * difference**2 / length**power).sum(axis=(0, 1))


def decay_forward(u, rate):
    """Run leaky integrators, one a channel: h = rate * h + u."""
    states = [np.zeros(u.shape[1:], u.dtype)]
    for row in u:
        states.append(rate * states[-1] + row)
    return np.stack(states[1:]), (states, rate)


def decay_backward(dout, cache, slip=""):
    states, rate = cache
    du, dh, drate = np.empty_like(dout), 0 * rate, 0 * rate
    for t in reversed(range(len(dout))):
        du[t] = dh = dh * rate + dout[t]
        drate = drate + dh * states[t + 1 if slip == "drate by the state after" else t]
    return du, drate


def relu_bias_forward(x, bias):
    return np.maximum(x + bias, 0), x + bias > 0


def relu_bias_backward(dout, active, slip=""):
    d = dout * active
    return d, (dout if slip == "dbias of the dead ones, too" else d).sum(axis=0)


def pooling_forward(x, weight):
    """Mix the columns by weights that begin as a mean."""
    return x @ weight, (x, weight)


def pooling_backward(dout, cache, slip=""):
    x, weight = cache
    dweight = x.T @ dout
    if slip == "dweight a thousandth too small":
        dweight = 0.999 * dweight
    if slip == "dweight of column 0 for all":
        dweight = np.repeat(dweight[:, :1], dweight.shape[1], axis=1)
    return dout @ weight.T, dweight


def embed_forward(ids, table):
    return table[ids], (ids, table)


def embed_backward(dout, cache, slip=""):
    ids, table = cache
    dtable = np.zeros_like(table)
    if slip == "repeats counted once":
        dtable[ids] = dout
    else:
        np.add.at(dtable, ids, dout)
    return dtable


def drawn(seed, *shapes, alike=()):
    """Draw normal arrays, and after them arrays whose numbers are alike."""
    return (*normal(seed, *shapes), *(np.full(shape, value) for shape, value in alike))


def channels():
    return drawn(307, (4, 3, 5), alike=[(3, 0.8)])


gain = partial(
    planted,
    "gain of 0.3",
    forward=gain_forward,
    right=gain_backward,
    args=lambda: drawn(301, (3, 10), alike=[(10, 0.3)]),
)
layernorm = partial(
    planted,
    "layernorm, gain 0.1 and bias 1e-4",
    forward=layernorm_forward,
    right=layernorm_backward,
    args=lambda: drawn(302, (3, 7), alike=[(7, 0.1), (7, 1e-4)]),
)
layer_scale = partial(
    planted,
    "layer scale of 1e-6",
    forward=layer_scale_forward,
    right=layer_scale_backward,
    args=lambda: drawn(303, (3, 12), (3, 12), alike=[(12, 1e-6)]),
    step=4e-3,
)
prelu = partial(
    planted,
    "prelu of slope 0.35",
    forward=prelu_forward,
    right=prelu_backward,
    args=lambda: drawn(304, (6, 3), alike=[(3, 0.35)]),
)
temperature = partial(
    planted,
    "temperature of 0.7 a head",
    forward=temperature_forward,
    right=temperature_backward,
    args=lambda: drawn(305, (3, 2, 4), alike=[(3, 0.7)]),
)
rms = partial(
    planted,
    "rms norm of gain 0.7",
    forward=rms_forward,
    right=rms_backward,
    args=lambda: drawn(306, (3, 6), alike=[(6, 0.7)]),
)
batchnorm = partial(
    planted, "batch norm of gain 0.8", forward=batchnorm_forward, right=batchnorm_backward, args=channels
)
springs = partial(
    planted,
    "springs of stiffness 0.1",
    forward=springs_forward,
    right=springs_backward,
    args=lambda: (1.5 * normal(308, (7,))[0], np.full(6, 0.1)),
)
tasks = partial(
    planted,
    "losses weighed alike",
    forward=tasks_forward,
    right=tasks_backward,
    args=lambda: (np.exp(normal(309, (6,))[0]), np.full(6, -0.7)),
)
ard = partial(
    planted,
    "kernel of lengths 0.35",
    forward=ard_forward,
    right=ard_backward,
    args=lambda: (0.3 * normal(310, (4, 3))[0], np.full(3, 0.35)),
)
decay = partial(
    planted,
    "integrators of rate 0.8",
    forward=decay_forward,
    right=decay_backward,
    args=lambda: drawn(311, (5, 3), alike=[(3, 0.8)]),
)
relu_bias = partial(
    planted,
    "relu of bias 0.1",
    forward=relu_bias_forward,
    right=relu_bias_backward,
    args=lambda: drawn(312, (4, 6), alike=[(6, 0.1)]),
)
pooling = partial(
    planted,
    "weights of 1/5",
    forward=pooling_forward,
    right=pooling_backward,
    args=lambda: drawn(313, (4, 5), alike=[((5, 3), 1 / 5)]),
)
embed = partial(
    planted,
    "table filled with 0.02",
    forward=embed_forward,
    right=embed_backward,
    args=lambda: (np.array([1, 0, 1, 3, 1]), np.full((4, 3), 0.02)),
)

BUGS = [
    gain("dg doubled", called="a factor of 2"),
    gain("dg the batch's mean", called="a factor of 1/N"),
    gain("dg times g"),
    gain("dg a millionth too large"),
    layernorm("dgain by x less its mean"),
    layernorm("dbias halved", called="a factor of 1/2"),
    layernorm("dgain of the first row", called="the sum over the batch is missing"),
    layer_scale("dgamma times gamma", called="a factor"),
    layer_scale("dgamma through the tanh"),
    prelu("dalpha of the positive ones, too"),
    temperature("dtau over tau, not its square", called="a factor"),
    temperature("sign of dtau", called="the sign"),
    rms("dgain by x"),
    batchnorm("dgain over the batch, not the length", called="the sum over an axis is missing"),
    springs("dk without the half", called="a factor of 2"),
    tasks("the logarithm's half forgotten", called="a lost term"),
    ard("dlength over its square, not its cube", called="a factor"),
    decay("drate by the state after", called="shifted in time"),
    relu_bias("dbias of the dead ones, too"),
    pooling("dweight a thousandth too small", called="a factor"),
    pooling("dweight of column 0 for all", called="one column repeated"),
    embed("repeats counted once", called="repeats"),
]
