"""Losses: what is counted, what is divided by, and the gradient that comes from above."""

from functools import partial

import numpy as np

from tests.gradcheck.bugs.attention import softmax
from tests.gradcheck.example import normal, planted

IGNORE = -100


def cross_entropy_forward(logits, targets):
    """Average over the targets that are not IGNORE."""
    counted = np.flatnonzero(targets != IGNORE)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return -logp[counted, targets[counted]].sum() / counted.size, (np.exp(logp), counted, targets)


def cross_entropy_backward(dloss, cache, slip=""):
    probs, counted, targets = cache
    dlogits = np.zeros_like(probs)
    dlogits[counted] = probs[counted]
    dlogits[counted, targets[counted]] -= 1
    N = counted.size
    match slip:
        case "divided by all targets, ignored ones too":
            N = len(targets)
        case "ignored rows have a gradient":
            ignored = np.flatnonzero(targets == IGNORE)
            dlogits[ignored] = probs[ignored]
        case "not divided by N":
            N = 1
        case "onehot forgotten":
            dlogits[counted, targets[counted]] += 1
        case "sign":
            dlogits = -dlogits
        case "dloss taken as 1":
            dloss = 1.0
        case "target of the row before":
            dlogits[counted] = probs[counted]
            dlogits[counted, np.roll(targets[counted], 1)] -= 1
        case "divided by N times V":
            N = N * probs.shape[1]
    return dloss * dlogits / N


def smoothed_forward(logits, targets, smoothing=0.2):
    V = logits.shape[-1]
    probs = softmax(logits)
    wanted = np.eye(V)[targets].astype(logits.dtype) * (1 - smoothing) + smoothing / V
    return -(wanted * np.log(probs)).sum() / len(targets), (probs, wanted, targets, smoothing)


def smoothed_backward(dloss, cache, slip=""):
    probs, wanted, targets, smoothing = cache
    V = probs.shape[-1]
    match slip:
        case "smoothing forgotten in the backward":
            wanted = np.eye(V)[targets]
        case "1 / V for smoothing / V":
            wanted = np.eye(V)[targets] * (1 - smoothing) + 1 / V
        case "spread over V - 1":
            wanted = np.eye(V)[targets] * (1 - smoothing) + smoothing / (V - 1)
    return dloss * (probs - wanted) / len(targets)


def weighted_forward(logits, targets, weight):
    """Weigh the classes, and divide by the weights of the targets."""
    probs = softmax(logits)
    w = weight[targets]
    rows = np.arange(len(targets))
    return -(w * np.log(probs[rows, targets])).sum() / w.sum(), (probs, targets, w, rows, weight.shape)


def weighted_backward(dloss, cache, slip=""):
    probs, targets, w, rows, shape = cache
    dlogits = probs.copy()
    dlogits[rows, targets] -= 1
    total = len(rows) if slip == "divided by N, not by the weights" else w.sum()
    nll = -np.log(probs[rows, targets])
    dw = dloss * (nll / w.sum() - (w * nll).sum() / w.sum() ** 2)
    if slip == "denominator taken as a constant":
        dw = dloss * nll / w.sum()
    dweight = np.zeros(shape, probs.dtype)
    np.add.at(dweight, targets, dw)
    return dloss * dlogits * w[:, None] / total, dweight


def bce_forward(x, y, pos_weight):
    """Binary cross-entropy of logits; positives count pos_weight times."""
    log_weight = 1 + (pos_weight - 1) * y
    soft = np.log1p(np.exp(-np.abs(x))) + np.maximum(-x, 0)
    return ((1 - y) * x + log_weight * soft).mean(), (x, y, pos_weight)


def bce_backward(dloss, cache, slip=""):
    x, y, pos_weight = cache
    s = 1 / (1 + np.exp(-x))
    match slip:
        case "pos_weight forgotten":
            pos_weight = 1
        case "pos_weight on both classes":
            return dloss * pos_weight * (s - y) / x.size
        case "sigmoid differentiated twice":
            return dloss * (s - y) * s * (1 - s) / x.size
    return dloss * ((1 - y) * s - pos_weight * y * (1 - s)) / x.size


def mse_forward(x, y):
    return ((x - y) ** 2).mean(), (x, y)


def mse_backward(dloss, cache, slip=""):
    x, y = cache
    dx = 2 * dloss * (x - y) / x.size
    match slip:
        case "factor 2 missing":
            return dx / 2, -dx / 2
        case "divided by the batch, not by all elements":
            return dx * x.size / len(x), -dx * x.size / len(x)
        case "sign of dy":
            return dx, dx
    return dx, -dx


def kl_forward(logits, target):
    """KL of a target distribution from softmax(logits)."""
    probs = softmax(logits)
    return (target * (np.log(target) - np.log(probs))).sum(), (probs, target)


def kl_backward(dloss, cache, slip=""):
    probs, target = cache
    dtarget = dloss * (np.log(target) - np.log(probs) + 1)
    if slip == "the 1 of d(t log t) missing":
        dtarget = dtarget - dloss
    if slip == "target taken to sum to 1 in a slice that does not":
        return dloss * (probs - target), dtarget
    return dloss * (probs * target.sum(axis=-1, keepdims=True) - target), dtarget


def targets_of(seed, shape, ignored=()):
    logits = normal(seed, shape)[0]
    targets = np.random.default_rng(seed + 1).integers(shape[1], size=shape[0])
    targets[list(ignored)] = IGNORE
    return logits, targets


def weighted_args():
    logits, targets = targets_of(53, (6, 4))
    return logits, targets, np.array([0.5, 2.0, 1.0, 3.0])


def bce_args():
    (x,) = normal(54, (7,))
    return x, np.array([1, 0, 1, 1, 0, 0, 1]), 3.0


def distributions():
    logits, other = normal(55, (3, 4), (3, 4))
    return logits, 1.5 * softmax(other)


ce = partial(
    planted,
    "cross entropy",
    forward=cross_entropy_forward,
    right=cross_entropy_backward,
    args=partial(targets_of, 51, (6, 5), (1, 4)),
)
smooth = partial(
    planted, "label smoothing", forward=smoothed_forward, right=smoothed_backward, args=partial(targets_of, 52, (4, 5))
)
bce = partial(planted, "bce with logits", forward=bce_forward, right=bce_backward, args=bce_args)
mse = partial(planted, "mse", forward=mse_forward, right=mse_backward, args=partial(normal, 56, (4, 3), (4, 3)))

BUGS = [
    ce("divided by all targets, ignored ones too", source="https://github.com/chainer/chainer/pull/500"),
    ce("ignored rows have a gradient"),
    ce(
        "not divided by N",
    ),
    ce("onehot forgotten"),
    ce("sign"),
    ce(
        "dloss taken as 1",
        source="https://github.com/pytorch/tutorials/issues/216",
        note="fill_(grad_input, 1); right only where the loss is the end",
    ),
    ce("target of the row before"),
    ce("divided by N times V"),
    smooth(
        "smoothing forgotten in the backward",
    ),
    smooth("1 / V for smoothing / V", source="https://github.com/TimDettmers/ConvE/issues/55"),
    smooth("spread over V - 1"),
    planted(
        "weighted cross entropy", "divided by N, not by the weights", weighted_forward, weighted_backward, weighted_args
    ),
    planted(
        "weighted cross entropy", "denominator taken as a constant", weighted_forward, weighted_backward, weighted_args
    ),
    bce(
        "pos_weight forgotten",
        source="https://github.com/PaddlePaddle/Paddle/pull/65859",
        note="there in the loss itself",
    ),
    bce("pos_weight on both classes"),
    bce("sigmoid differentiated twice"),
    mse("factor 2 missing", source="https://github.com/davisking/dlib/issues/1169"),
    mse(
        "divided by the batch, not by all elements",
        source="https://github.com/deeplearning4j/deeplearning4j/pull/1452",
        note="there for a batch of one",
    ),
    mse("sign of dy"),
    planted("kl divergence", "the 1 of d(t log t) missing", kl_forward, kl_backward, distributions),
    planted(
        "kl divergence",
        "target taken to sum to 1 in a slice that does not",
        kl_forward,
        kl_backward,
        distributions,
        source="https://github.com/kvark/meganeura/pull/102",
    ),
]
