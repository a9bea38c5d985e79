"""Losses of margins and distances: what stands still, what is counted, and what a norm adds."""

from functools import partial

import numpy as np

from tests.gradcheck.bugs.losses import targets_of
from tests.gradcheck.example import normal, planted


def huber_forward(x, y, delta=0.7):
    d = np.abs(x - y)
    return np.where(d < delta, 0.5 * d * d, delta * (d - 0.5 * delta)).sum(), (x, y, delta)


def huber_backward(dloss, cache, slip=""):
    x, y, delta = cache
    d = x - y
    inside, linear, quadratic = np.abs(d) < delta, delta * np.sign(d), d
    match slip:
        case "limit on the signed difference":
            inside, linear = d < delta, delta
        case "delta missing in the linear part":
            linear = np.sign(d)
        case "divided by delta as in smooth L1":
            linear, quadratic = np.sign(d), d / delta
    dx = dloss * np.where(inside, quadratic, linear)
    return dx, -dx


def svm_forward(scores, y):
    """Average the margins max(0, s_j - s_y + 1), j not y."""
    rows = np.arange(len(y))
    margins = np.maximum(0, scores - scores[rows, y][:, None] + 1)
    return (margins.sum() - len(y)) / len(y), (margins, y, rows)


def svm_backward(dloss, cache, slip=""):
    margins, y, rows = cache
    above = (margins > 0).astype(margins.dtype)
    above[rows, y] = 0
    counts = above.sum(axis=1)
    if slip == "right class counts itself":
        counts = (margins > 0).sum(axis=1)
    if slip != "right class left out":
        above[rows, y] = -counts
    return dloss * above / len(y)


def triplet_forward(anchor, positive, negative):
    near, far = ((anchor - positive) ** 2).sum(axis=1), ((anchor - negative) ** 2).sum(axis=1)
    lost = np.maximum(0, near - far + 3)
    return lost.sum(), (anchor, positive, negative, lost > 0)


def triplet_backward(dloss, cache, slip=""):
    anchor, positive, negative, lost = cache
    lost = dloss * lost[:, None]
    danchor = 2 * lost * (negative - positive)
    if slip == "positive and negative held fixed":
        return danchor, np.zeros_like(positive), np.zeros_like(negative)
    if slip == "as if the vectors were normalised":
        return danchor, -2 * lost * anchor, 2 * lost * anchor
    return danchor, 2 * lost * (positive - anchor), 2 * lost * (anchor - negative)


def cosine_forward(a, b):
    na, nb = np.sqrt((a * a).sum(axis=1)), np.sqrt((b * b).sum(axis=1))
    return (a * b).sum(axis=1) / (na * nb), (a, b, na[:, None], nb[:, None])


def cosine_backward(dout, cache, slip=""):
    a, b, na, nb = cache
    dout = -dout[:, None] if slip == "sign, in a batch" else dout[:, None]
    cosine = (a * b).sum(axis=1, keepdims=True) / (na * nb)
    if slip == "norms taken as constants":
        return dout * b / (na * nb), dout * a / (na * nb)
    return dout * (b / (na * nb) - cosine * a / na**2), dout * (a / (na * nb) - cosine * b / nb**2)


def center_forward(x, centers, labels):
    picked = centers[labels]
    return ((x - picked) ** 2).sum() / (2 * len(x)), (x, centers, labels, picked)


def center_backward(dloss, cache, slip=""):
    x, centers, labels, picked = cache
    N = 1 if slip == "dx not divided by the batch" else len(x)
    dcenters = np.zeros_like(centers)
    np.add.at(dcenters, labels, dloss * (picked - x) / len(x))
    if slip == "centers averaged over their examples":
        dcenters = dcenters / np.maximum(np.bincount(labels, minlength=len(centers)), 1)[:, None]
    return dloss * (x - picked) / N, dcenters


huber = partial(planted, "huber", forward=huber_forward, right=huber_backward, args=partial(normal, 57, (8,), (8,)))

BUGS = [
    huber("limit on the signed difference", source="https://github.com/BobMcDear/attorch/issues/13"),
    huber("delta missing in the linear part"),
    huber(
        "divided by delta as in smooth L1",
        source="https://github.com/pytorch/pytorch/pull/17447",
        note="there forward and backward without beta",
    ),
    planted(
        "hinge of classes",
        "right class counts itself",
        svm_forward,
        svm_backward,
        partial(targets_of, 58, (5, 4)),
        source="https://github.com/bruceoutdoors/CS231n/issues/5",
        note="= for -=",
    ),
    planted("hinge of classes", "right class left out", svm_forward, svm_backward, partial(targets_of, 58, (5, 4))),
    planted(
        "triplet loss",
        "positive and negative held fixed",
        triplet_forward,
        triplet_backward,
        partial(normal, 59, (4, 3), (4, 3), (4, 3)),
        source="https://github.com/jhjin/triplet-criterion/issues/2",
    ),
    planted(
        "triplet loss",
        "as if the vectors were normalised",
        triplet_forward,
        triplet_backward,
        partial(normal, 59, (4, 3), (4, 3), (4, 3)),
        source="https://github.com/luhaofang/tripletloss/issues/41",
        note="what the reporter proposed",
    ),
    planted(
        "cosine similarity",
        "norms taken as constants",
        cosine_forward,
        cosine_backward,
        partial(normal, 60, (3, 4), (3, 4)),
    ),
    planted(
        "cosine similarity",
        "sign, in a batch",
        cosine_forward,
        cosine_backward,
        partial(normal, 60, (3, 4), (3, 4)),
        source="https://github.com/torch/torch7/issues/298",
    ),
    planted(
        "center loss",
        "dx not divided by the batch",
        center_forward,
        center_backward,
        lambda: (*normal(61, (5, 2), (3, 2)), np.array([0, 2, 0, 1, 0])),
        source="https://github.com/jxgu1016/MNIST_center_loss_pytorch/issues/9",
    ),
    planted(
        "center loss",
        "centers averaged over their examples",
        center_forward,
        center_backward,
        lambda: (*normal(61, (5, 2), (3, 2)), np.array([0, 2, 0, 1, 0])),
        source="https://github.com/jxgu1016/MNIST_center_loss_pytorch/issues/9",
        note="meant so in the center loss paper, and not the gradient",
    ),
]
