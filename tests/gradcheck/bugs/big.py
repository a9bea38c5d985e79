"""Arrays of 200,000 elements and more, with a few of them wrong: too many to difference one at a time."""

from functools import partial

import numpy as np

from tests.gradcheck.example import normal, planted

ROWS, COLS = 512, 400


def linear_forward(x, weight, bias):
    return x @ weight + bias, (x, weight)


def linear_backward(dout, cache, slip=""):
    x, weight = cache
    dx, dweight, dbias = dout @ weight.T, x.T @ dout, dout.sum(axis=0)
    match slip:
        case "one row zero":
            dweight[217] = 0
        case "last row not written":
            dweight[-1] = 0
        case "sign of one element":
            dweight[300, 123] *= -1
        case "one element a hundredth too large":
            dweight[41, 7] *= 1.01
        case "every 64th column missing":
            dweight[:, 63::64] = 0
        case "two elements off, their sum right":
            dweight[5, 5] += 0.5
            dweight[400, 300] -= 0.5
        case "last element of dbias zero":
            dbias[-1] = 0
        case "everything times 1.0001":
            dweight *= 1.0001
    return dx, dweight, dbias


def embedding_forward(ids, weight):
    return np.tanh(weight[ids]), (ids, weight)


def embedding_backward(dout, cache, slip=""):
    ids, weight = cache
    dweight = np.zeros_like(weight)
    dlooked = dout * (1 - np.tanh(weight[ids]) ** 2)
    np.add.at(dweight, ids, dlooked)
    match slip:
        case "one id of many dropped":
            dweight[ids[17]] = 0
        case "a row that no id named has a gradient":
            dweight[12345] = 1e-3
        case "last row lost to the tile":
            dweight[len(weight) // 32 * 32 :] = 0
    return dweight


def tanh_forward(x):
    return np.tanh(x), np.tanh(x)


def tanh_backward(dout, y, slip=""):
    dx = dout * (1 - y * y)
    if slip == "tail of the vector loop missing":
        dx[-(len(dx) % 8) :] = 0
    return dx


def layernorm_forward(x, weight):
    centred = x - x.mean(axis=1, keepdims=True)
    rstd = 1 / np.sqrt((centred * centred).mean(axis=1, keepdims=True) + 1e-5)
    return centred * rstd * weight, (centred * rstd, rstd, weight)


def layernorm_backward(dout, cache, slip=""):
    xhat, rstd, weight = cache
    d = dout * weight
    dx = rstd * (d - d.mean(axis=1, keepdims=True) - xhat * (d * xhat).mean(axis=1, keepdims=True))
    if slip == "one row without its means":
        dx[333] = rstd[333] * d[333]
    return dx, (dout * xhat).sum(axis=0)


def mean_forward(x, y):
    return np.mean((x - y) ** 2), (x, y)


def mean_backward(dloss, cache, slip=""):
    x, y = cache
    dx = 2 * dloss * (x - y) / x.size
    dy = -dx
    if slip == "one row of dy twice":
        dy[100] *= 2
    return dx, dy


def table():
    ids = np.random.default_rng(162).integers(30_007, size=64)
    ids[10] = ids[40] = ids[20]
    ids[63] = 30_006
    return ids, *normal(161, (30_007, 8))


linear = partial(
    planted,
    "linear of 204,800 weights",
    forward=linear_forward,
    right=linear_backward,
    args=partial(normal, 160, (3, ROWS), (ROWS, COLS), (COLS,)),
)
embedding = partial(
    planted, "embedding of 240,056 weights", forward=embedding_forward, right=embedding_backward, args=table
)
tanh = partial(
    planted,
    "tanh of 200,003 elements",
    forward=tanh_forward,
    right=tanh_backward,
    args=partial(normal, 163, (200_003,)),
)

BUGS = [
    linear("one row zero"),
    linear(
        "last row not written",
        source="https://github.com/pytorch/pytorch/issues/188467",
        note="there an index that overflows: the gradient of the final row is dropped",
    ),
    linear("sign of one element"),
    linear("one element a hundredth too large"),
    linear(
        "every 64th column missing",
        source="https://github.com/hao-ai-lab/FastVideo/pull/925",
        note="there a wrong block size in the mask",
    ),
    linear("two elements off, their sum right", note="invisible to a direction of ones"),
    linear(
        "last element of dbias zero",
        source="https://github.com/karpathy/llm.c/pull/439",
        note="there a reduction of dbias that is wrong for block sizes that are no power of two",
    ),
    linear("everything times 1.0001"),
    embedding("one id of many dropped"),
    embedding("a row that no id named has a gradient"),
    embedding(
        "last row lost to the tile",
        source="https://github.com/tenstorrent/tt-mlir/issues/9220",
        note="there rows left unwritten where their number is no multiple of 32",
    ),
    tanh(
        "tail of the vector loop missing",
        source="https://github.com/PaddlePaddle/Paddle/pull/79596",
        note="there past INT32_MAX",
    ),
    planted(
        "layernorm of 204,800 elements",
        "one row without its means",
        layernorm_forward,
        layernorm_backward,
        partial(normal, 164, (ROWS, COLS), (COLS,)),
    ),
    planted(
        "mse of 204,800 elements",
        "one row of dy twice",
        mean_forward,
        mean_backward,
        partial(normal, 165, (ROWS, COLS), (ROWS, COLS)),
        note="gradients of 1e-5 each",
    ),
]
