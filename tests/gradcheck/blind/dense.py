"""Layers, norms, losses, embeddings and convolutions, each with slips that its author has made or reviewed."""

import numpy as np

from tests.gradcheck.blind.slip import slips
from tests.gradcheck.example import normal

FACTOR = ("factor", "times", "scale", "ratio")


def linear(x, w, b):
    return x @ w + b, (x, w)


def linear_backward(dout, cache, slip=""):
    x, w = cache
    dx, dw, db = dout @ w.T, x.T @ dout, dout.sum(axis=0)
    match slip:
        case "w for its transpose":
            dx = dout @ w
        case "dw transposed":
            dw = dw.T
        case "db is a mean":
            db = dout.mean(axis=0)
        case "all divided by the batch":
            dw, db = dw / len(x), db / len(x)
        case "db summed over features":
            db = np.resize(dout.sum(axis=1), 6)
        case "db not summed":
            db = dout
    return dx, dw, db


def mlp(x, w1, w2):
    h = x @ w1
    return x + np.maximum(h, 0) @ w2, (x, w1, w2, h)


def mlp_backward(dout, cache, slip=""):
    x, w1, w2, h = cache
    da = dout @ w2.T
    dh = da * (h > 0)
    match slip:
        case "relu's mask from the gradient":
            dh = da * (da > 0)
        case "relu not undone":
            dh = da
    dx, dw1, dw2 = dout + dh @ w1.T, x.T @ dh, np.maximum(h, 0).T @ dout
    match slip:
        case "skip connection lost":
            dx = dx - dout
        case "skip connection twice":
            dx = dx + dout
        case "dw2 from before the relu":
            dw2 = h.T @ dout
    return dx, dw1, dw2


def swish(x, beta):
    s = 1 / (1 + np.exp(-beta * x))
    return x * s, (x, beta, s)


def swish_backward(dout, cache, slip=""):
    x, beta, s = cache
    dx, dbeta = dout * (s + beta * x * s * (1 - s)), dout * x * x * s * (1 - s)
    match slip:
        case "sigmoid's part alone":
            dx = dout * s
        case "beta forgotten inside":
            dx = dout * (s + x * s * (1 - s))
        case "dbeta without x squared":
            dbeta = dout * x * s * (1 - s)
        case "beta's channels not summed":
            return dx, np.broadcast_to(dbeta.sum(), beta.shape)
    return dx, dbeta.sum(axis=(0, 1))


def layernorm(x, gamma, beta):
    centred = x - x.mean(axis=-1, keepdims=True)
    rstd = 1 / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    xhat = centred * rstd
    return xhat * gamma + beta, (xhat, rstd, gamma, x)


def layernorm_backward(dout, cache, slip=""):
    xhat, rstd, gamma, x = cache
    g = dout * gamma
    mean, cov = g.mean(axis=-1, keepdims=True), (g * xhat).mean(axis=-1, keepdims=True)
    dgamma, dbeta = (dout * xhat).sum(axis=0), dout.sum(axis=0)
    match slip:
        case "mean detached":
            mean = 0
        case "variance detached":
            cov = 0
        case "rstd forgotten":
            rstd = 1
        case "dgamma from x":
            dgamma = (dout * x).sum(axis=0)
        case "dgamma and dbeta swapped":
            dgamma, dbeta = dbeta, dgamma
        case "dgamma summed over features":
            dgamma = (dout * xhat).sum(axis=1)
        case "gamma forgotten":
            g = dout
            mean, cov = g.mean(axis=-1, keepdims=True), (g * xhat).mean(axis=-1, keepdims=True)
    return rstd * (g - mean - xhat * cov), dgamma, dbeta


def batchnorm(x, gamma):
    mean, std = x.mean(axis=0), x.std(axis=0, ddof=1)
    xhat = (x - mean) / std
    return xhat * gamma, (xhat, std, gamma)


def batchnorm_backward(dout, cache, slip=""):
    xhat, std, gamma = cache
    n = len(xhat)
    g = dout * gamma
    cov = (g * xhat).sum(axis=0) / (n - 1)
    match slip:
        case "n for n - 1":
            cov = cov * (n - 1) / n
        case "std squared":
            std = std**2
        case "statistics over the features":
            return (g - g.mean(axis=1, keepdims=True) - xhat * cov) / std, (dout * xhat).sum(axis=0)
        case "last channel not normalised":
            dx = (g - g.mean(axis=0) - xhat * cov) / std
            dx[:, -1] = g[:, -1]
            return dx, (dout * xhat).sum(axis=0)
    return (g - g.mean(axis=0) - xhat * cov) / std, (dout * xhat).sum(axis=0)


IDS = np.array([[3, 0, 7, 3, 9], [0, 1, 3, 9, 4], [0, 0, 0, 7, 2]])


def embedding(table, positions, ids):
    """Give zeros for id 0, the padding, plus positions."""
    return table[ids] * (ids != 0)[..., None] + positions, (table, ids)


def embedding_backward(dout, cache, slip=""):
    table, ids = cache
    masked = dout * (ids != 0)[..., None]
    dtable, dpositions = np.zeros_like(table), dout.sum(axis=0)
    match slip:
        case "repeats overwritten":
            dtable[ids] = masked
            return dtable, dpositions
        case "repeats lost by +=":
            dtable[ids] += masked
            return dtable, dpositions
        case "padding row has a gradient":
            masked = dout
        case "positions a mean over the batch":
            dpositions = dout.mean(axis=0)
        case "ids off by one":
            ids = ids - 1
        case "first sample's positions":
            dpositions = dout[0]
    np.add.at(dtable, ids, masked)
    return dtable, dpositions


TARGETS = np.array([2, 0, -1, 5, 1, -1, 2, 4, 3])


def cross_entropy(logits, targets):
    """Average over the targets that are not -1, with label smoothing of 0.1."""
    kept = targets >= 0
    z = logits - logits.max(axis=1, keepdims=True)
    logp = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    goal = 0.9 * np.eye(logits.shape[1])[targets] + 0.1 / logits.shape[1]
    return -(goal * logp)[kept].sum() / kept.sum(), (np.exp(logp), goal, kept)


def cross_entropy_backward(dout, cache, slip=""):
    p, goal, kept = cache
    n, rows = kept.sum(), kept[:, None]
    match slip:
        case "divided by all rows":
            n = len(p)
        case "ignored targets not masked":
            rows = 1
        case "smoothing forgotten":
            goal = (goal > 0.5).astype(float)
        case "sign":
            return dout * (goal - p) * rows / n
        case "not averaged":
            n = 1
        case "mask of the wrong side":
            rows = ~kept[:, None]
        case "upstream gradient ignored":
            dout = 1.0
    return dout * (p - goal) * rows / n


def conv1d(x, w, b):
    """Correlate (B, C, T) with (O, C, K), padded by one at both ends, stride 1."""
    k = w.shape[2]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1))), k, axis=2)
    return np.einsum("bctk,ock->bot", windows, w) + b[:, None], (x, w, windows)


def conv1d_backward(dout, cache, slip=""):
    x, w, windows = cache
    k = w.shape[2]
    dw, db = np.einsum("bot,bctk->ock", dout, windows), dout.sum(axis=(0, 2))
    dpad = np.zeros((*x.shape[:2], x.shape[2] + 2))
    kernel = w[:, :, ::-1] if slip == "kernel not flipped" else w
    for j in range(k):
        dpad[:, :, j : j + dout.shape[2]] += np.einsum("bot,oc->bct", dout, kernel[:, :, j])
    dx = dpad[:, :, 1:-1]
    match slip:
        case "dw flipped":
            dw = dw[:, :, ::-1]
        case "padding cut at one end":
            dx = dpad[:, :, 2:]
        case "last output forgotten":
            dx = dx.copy()
            dx[:, :, -2:] -= np.einsum("bo,ock->bck", dout[:, :, -1], w[:, :, :2])
        case "db averaged over time":
            db = db / dout.shape[2]
        case "first batch alone":
            dw = np.einsum("ot,ctk->ock", dout[0], windows[0])
        case "one channel's kernel not added":
            dw[:, 1] = 0
    return dx, dw, db


def avgpool(x):
    b, c, h, w = x.shape
    return x.reshape(b, c, h // 2, 2, w // 2, 2).mean(axis=(3, 5)), None


def avgpool_backward(dout, cache, slip=""):
    dx = dout.repeat(2, axis=2).repeat(2, axis=3) / 4
    match slip:
        case "not divided by the window":
            return dx * 4
        case "one corner of each window":
            dx[:, :, 1::2] = 0
            dx[:, :, :, 1::2] = 0
            return dx * 4
        case "tiled, not repeated":
            return np.tile(dout, (1, 1, 2, 2)) / 4
    return dx


KEPT = np.random.default_rng(5).random((6, 8)) < 0.75


def dropout(x):
    return x * KEPT / 0.75, None


def dropout_backward(dout, cache, slip=""):
    match slip:
        case "scale forgotten":
            return dout * KEPT
        case "mask forgotten":
            return dout / 0.75
        case "scaled by p":
            return dout * KEPT / 0.25
        case "mask inverted":
            return dout * ~KEPT / 0.75
        case "float32":
            return (dout * KEPT / 0.75).astype(np.float32)
    return dout * KEPT / 0.75


def distil(student, teacher, temperature=3.0):
    """Sum of teacher * (log teacher - log student), of softmaxes at a temperature, times its square."""
    q, p = (np.exp(z / temperature) for z in (student, teacher))
    q, p = q / q.sum(axis=1, keepdims=True), p / p.sum(axis=1, keepdims=True)
    return (p * np.log(p / q)).sum() * temperature**2, (q, p, temperature)


def distil_backward(dout, cache, slip=""):
    q, p, t = cache
    dq = dout * (q - p) * t
    logs = np.log(p / q)
    dp = dout * p * (logs - (p * logs).sum(axis=1, keepdims=True)) * t
    match slip:
        case "temperature squared left":
            return dq * t, dp
        case "temperature forgotten":
            return dq / t**2, dp / t**2
        case "student and teacher swapped":
            return dp, dq
        case "teacher detached":
            return dq, np.zeros_like(dp)
    return dq, dp


DENSE = [
    *slips(
        "linear",
        linear,
        linear_backward,
        lambda: normal(1, (7, 6), (6, 6), (6,)),
        ("w for its transpose", "transposed", "w is not transposed in dx = dout @ w.T", "transpos"),
        ("dw transposed", "transposed", "dw is transposed", "transpos"),
        ("db is a mean", "factor", "db is a mean over 7 rows, not a sum", "mean", "1/7", *FACTOR),
        ("all divided by the batch", "factor", "dw and db are divided by 7", "mean", "1/7", *FACTOR),
        ("db summed over features", "axis", "db is summed over the wrong axis, and cut to size", "axis", "summed over"),
        ("db not summed", "shape", "db is not summed over the batch", "sum", "shape", "axis"),
    ),
    *slips(
        "mlp",
        mlp,
        mlp_backward,
        lambda: normal(2, (5, 4), (4, 11), (11, 4)),
        ("relu's mask from the gradient", "wrong point", "relu's mask is that of the gradient's sign"),
        ("relu not undone", "activation", "relu's derivative is forgotten"),
        ("skip connection lost", "skip", "dx lacks the skip connection's dout", "dout", "skip", "residual"),
        ("skip connection twice", "skip", "dx has the skip connection's dout twice", "dout", "skip", "residual"),
        ("dw2 from before the relu", "wrong point", "dw2 uses what goes into the relu, not what comes out"),
    ),
    *slips(
        "swish",
        swish,
        swish_backward,
        lambda: (normal(3, (3, 4, 5))[0], np.array([0.8, 1.4, 2.0, 1.1, 0.6])),
        ("sigmoid's part alone", "lost term", "the second term of the product rule is lost"),
        ("beta forgotten inside", "factor", "beta is missing in the inner derivative"),
        ("dbeta without x squared", "lost factor", "x for x squared"),
        ("beta's channels not summed", "axis", "dbeta is summed over all axes", "axis", "sum", "same"),
    ),
    *slips(
        "layer norm",
        layernorm,
        layernorm_backward,
        lambda: (normal(4, (8, 8))[0] * 2 + 1, *normal(5, (8,), (8,))),
        ("mean detached", "detached", "the mean is a constant", "constant", "mean", "row", "detach"),
        (
            "variance detached",
            "detached",
            "the variance is a constant",
            "constant",
            "varian",
            "row",
            "detach",
            "statistic",
        ),
        ("rstd forgotten", "factor", "1 / std is forgotten in dx", "row", *FACTOR),
        ("dgamma from x", "wrong point", "dgamma uses x, not the normalised x"),
        ("dgamma and dbeta swapped", "swapped", "dgamma and dbeta are swapped", "swap", "beta", "gamma"),
        ("dgamma summed over features", "axis", "dgamma is summed over the wrong axis"),
        ("gamma forgotten", "lost factor", "dx lacks gamma"),
    ),
    *slips(
        "batch norm",
        batchnorm,
        batchnorm_backward,
        lambda: (normal(6, (11, 4))[0] * np.array([1, 2, 0.5, 3]), *normal(7, (4,))),
        ("n for n - 1", "factor", "n for n - 1 in the variance's term"),
        ("std squared", "factor", "dx is divided by the variance", "column", "axis", *FACTOR),
        (
            "statistics over the features",
            "axis",
            "the mean is taken over the wrong axis",
            "axis",
            "row",
            "mean",
            "column",
        ),
        ("last channel not normalised", "one part", "the last column is wrong", "column", "last", "[:, 3]"),
    ),
    *slips(
        "embedding",
        embedding,
        embedding_backward,
        lambda: (*normal(8, (12, 6), (5, 6)), IDS),
        ("repeats overwritten", "repeats", "of repeated ids the last one alone counts", "repeat", "add.at"),
        ("repeats lost by +=", "repeats", "of repeated ids the last one alone counts", "repeat", "add.at"),
        (
            "padding row has a gradient",
            "padding",
            "row 0, the padding, must have no gradient",
            "row 0",
            "padding",
            "first row",
        ),
        ("positions a mean over the batch", "factor", "dpositions is a mean over 3", "mean", "1/3", *FACTOR),
        ("ids off by one", "shifted", "the rows are shifted by one", "shift", "off by one", "one row", "roll", "by 1"),
        ("first sample's positions", "one part", "the batch is not summed", "sum", "batch"),
    ),
    *slips(
        "cross entropy",
        cross_entropy,
        cross_entropy_backward,
        lambda: (normal(9, (9, 6))[0], TARGETS),
        ("divided by all rows", "factor", "divided by 9, not by the 7 that count", "7/9", *FACTOR),
        ("ignored targets not masked", "mask", "rows 2 and 5 are ignored and must be 0", "row", "mask", "zero"),
        ("smoothing forgotten", "lost term", "label smoothing is not in the target"),
        ("sign", "sign", "the sign is wrong", "sign", "-1", "negat", "minus"),
        ("not averaged", "factor", "not divided by 7", "7", *FACTOR),
        ("mask of the wrong side", "mask", "the mask is inverted", "mask", "row", "invert"),
        ("upstream gradient ignored", "dout", "dout is ignored", "dout", "upstream", *FACTOR),
    ),
    *slips(
        "conv1d",
        conv1d,
        conv1d_backward,
        lambda: normal(10, (4, 3, 9), (5, 3, 3), (5,)),
        ("kernel not flipped", "reversed", "dx uses the kernel the wrong way round"),
        ("dw flipped", "reversed", "dw is reversed along the kernel", "revers", "flip"),
        (
            "padding cut at one end",
            "shifted",
            "dx is shifted by one along time",
            "shift",
            "off by one",
            "by 1",
            "one step",
        ),
        ("last output forgotten", "edge", "the last output is forgotten at the edge", "last", "edge", "end", "from"),
        ("db averaged over time", "factor", "db is a mean over 9 steps", "mean", "1/9", *FACTOR),
        ("first batch alone", "one part", "dw has the first sample alone"),
        ("one channel's kernel not added", "one part", "dw is lost in channel 1", "1", "channel"),
    ),
    *slips(
        "average pooling",
        avgpool,
        avgpool_backward,
        lambda: normal(11, (2, 3, 4, 6)),
        ("not divided by the window", "factor", "not divided by 4", "4", *FACTOR),
        ("one corner of each window", "one part", "one element of each window gets it all", "zero", "lost", "0 "),
        (
            "tiled, not repeated",
            "shape",
            "the gradient is tiled, not repeated",
            "order",
            "reshape",
            "tile",
            "permut",
            "place",
        ),
    ),
    *slips(
        "dropout",
        dropout,
        dropout_backward,
        lambda: normal(12, (6, 8)),
        ("scale forgotten", "factor", "1 / 0.75 is forgotten", "0.75", *FACTOR),
        ("mask forgotten", "mask", "dropped elements get a gradient", "mask", "zero", "0"),
        ("scaled by p", "factor", "divided by p, not by 1 - p", "3", *FACTOR),
        ("mask inverted", "mask", "the mask is inverted", "mask", "invert", "zero"),
        ("float32", "dtype", "the gradient is float32", "float32", "dtype", "precision"),
    ),
    *slips(
        "distillation",
        distil,
        distil_backward,
        lambda: normal(13, (4, 7), (4, 7)),
        ("temperature squared left", "factor", "dstudent is 3 times too large", "3", *FACTOR),
        ("temperature forgotten", "factor", "both are 9 times too small", "1/9", *FACTOR),
        ("student and teacher swapped", "swapped", "the two gradients are swapped", "swap", "teacher", "student"),
        ("teacher detached", "lost", "the teacher's gradient is lost", "lost", "zero", "missing", "0"),
    ),
]
