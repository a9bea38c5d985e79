"""Forms: layouts, sizes, trees, arguments without a gradient, outputs that are constant."""

from functools import partial

import numpy as np

from tests.gradcheck.example import correct, normal


def sin_forward(x):
    return np.sin(x), x


def sin_backward(dout, x):
    return dout * np.cos(x)


def product_forward(a, b):
    return a * b, (a, b)


def unbroadcast(d, shape):
    d = d.sum(axis=tuple(range(d.ndim - len(shape))))
    return d.sum(axis=tuple(i for i, n in enumerate(shape) if n == 1 and d.shape[i] != 1), keepdims=True)


def product_backward(dout, cache):
    a, b = cache
    return unbroadcast(dout * b, a.shape), unbroadcast(dout * a, b.shape)


def lookup_forward(ids, weight, mask, scale, nothing, name):
    """Take ids, a mask, a number, None and a string beside the one array that has a gradient."""
    assert ids.dtype.kind == "i"
    assert mask.dtype == bool
    assert nothing is None
    assert name == "rows"
    return np.where(mask[:, None], weight[ids] * scale, 0 * weight[ids]), (ids, weight.shape, mask, scale)


def lookup_backward(dout, cache):
    ids, shape, mask, scale = cache
    dweight = np.zeros(shape, dout.dtype)
    np.add.at(dweight, ids, dout * mask[:, None] * scale)
    return None, dweight, None, None, None, None


def lookup_args():
    ids = np.array([2, 0, 2, 1])
    return ids, *normal(251, (3, 2)), np.array([True, True, False, True]), 3, None, "rows"


def mlp_forward(params, x):
    hidden = np.tanh(x @ params["fc"]["weight"] + params["fc"]["bias"])
    return hidden @ params["out"], (params, x, hidden)


def mlp_backward(dout, cache):
    params, x, hidden = cache
    dpre = dout @ params["out"].T * (1 - hidden * hidden)
    fc = {"weight": x.T @ dpre, "bias": dpre.sum(axis=0)}
    return {"fc": fc, "out": hidden.T @ dout}, dpre @ params["fc"]["weight"].T


def mlp_args():
    x, weight, bias, out = normal(252, (3, 2), (2, 4), (4,), (4, 2))
    return {"fc": {"weight": weight, "bias": bias}, "out": out}, x


def moments_forward(x):
    """Give a tuple: the means, and a scalar."""
    return (x.mean(axis=0), (x * x).sum()), x


def moments_backward(dout, x):
    dmean, dtotal = dout
    return np.broadcast_to(dmean / len(x), x.shape) + 2 * x * dtotal


def named_forward(x):
    """Give a dict of a list and an array."""
    return {"parts": [np.sin(x), np.cos(x)], "sum": x.sum(axis=0)}, x


def named_backward(dout, x):
    dsin, dcos = dout["parts"]
    return dsin * np.cos(x) - dcos * np.sin(x) + dout["sum"]


def chain_forward(matrices):
    """Multiply a list of matrices, the only argument."""
    out = matrices[0]
    for matrix in matrices[1:]:
        out = out @ matrix
    return out, matrices


def chain_backward(dout, matrices):
    dmatrices = []
    for i in range(len(matrices)):
        left, right = np.eye(len(dout)), np.eye(dout.shape[1])
        for matrix in matrices[:i]:
            left = left @ matrix
        for matrix in reversed(matrices[i + 1 :]):
            right = matrix @ right
        dmatrices.append(left.T @ dout @ right.T)
    return (dmatrices,)


def constants_forward(x):
    """Give ones and a causal frame beside what depends on x."""
    T = len(x)
    return np.concatenate((np.ones_like(x), np.tril(np.outer(x, x)).reshape(-1), np.full(T, -1e9, x.dtype))), x


def constants_backward(dout, x):
    T = len(x)
    d = np.tril(dout[T:-T].reshape(T, T))
    return d @ x + d.T @ x


def dropout_forward(x):
    """Draw the mask from a seed, the same for every call."""
    mask = (np.random.default_rng(7).random(x.shape) < 0.5).astype(np.float64)
    return x * x * mask / 0.5, (x, mask)


def dropout_backward(dout, cache):
    x, mask = cache
    return 2 * x * dout * mask / 0.5


def identity_backward(dout, cache):
    return dout.copy()


def identity_forward(x):
    return x + 0, None


def frozen():
    """Give a read-only view that repeats one row."""
    return (np.broadcast_to(normal(262, (4,))[0], (3, 4)), *normal(263, (3, 4)))


NASTY = [
    correct("zero-dimensional", sin_forward, sin_backward, lambda: (np.array(0.7),), "shape ()"),
    correct("empty", sin_forward, sin_backward, lambda: (np.zeros((0, 3)),), "no element"),
    correct("one element", sin_forward, sin_backward, lambda: (np.array([[[0.7]]]),), "shape (1, 1, 1)"),
    correct("every other element", sin_forward, sin_backward, lambda: (normal(253, (8,))[0][::2],), "a strided view"),
    correct(
        "a reversed view", sin_forward, sin_backward, lambda: (normal(253, (3, 4))[0][::-1, ::-1],), "negative strides"
    ),
    correct(
        "Fortran order",
        sin_forward,
        sin_backward,
        lambda: (np.asfortranarray(normal(254, (3, 4))[0]),),
        "columns first",
    ),
    correct(
        "a transposed view",
        sin_forward,
        sin_backward,
        lambda: (normal(254, (2, 3, 4))[0].transpose(2, 0, 1),),
        "axes out of order",
    ),
    correct("a read-only argument", product_forward, product_backward, frozen, "strides of zero, not writeable"),
    correct(
        "broadcast (3, 1) with (4,)",
        product_forward,
        product_backward,
        partial(normal, 255, (3, 1), (4,)),
        "both summed",
    ),
    correct(
        "broadcast (2, 1, 4) with ()",
        product_forward,
        product_backward,
        lambda: (*normal(256, (2, 1, 4)), np.array(0.4)),
        "a number against an array",
    ),
    correct(
        "ids, mask, number, None and a string",
        lookup_forward,
        lookup_backward,
        lookup_args,
        "None for all but one gradient",
    ),
    correct(
        "a dict of dicts of parameters", mlp_forward, mlp_backward, mlp_args, "a gradient in the argument's structure"
    ),
    correct(
        "a tuple of outputs",
        moments_forward,
        moments_backward,
        partial(normal, 257, (4, 3)),
        "dout is a tuple, one of it a number",
    ),
    correct(
        "a dict of outputs",
        named_forward,
        named_backward,
        partial(normal, 258, (2, 3)),
        "dout is a dict with a list in it",
    ),
    correct(
        "a list of matrices",
        chain_forward,
        chain_backward,
        lambda: (list(normal(259, (2, 3), (3, 4), (4, 2))),),
        "one argument, one gradient, both lists",
    ),
    correct(
        "outputs that are constant",
        constants_forward,
        constants_backward,
        partial(normal, 260, (3,)),
        "ones, zeros, and -1e9",
    ),
    correct(
        "dropout from a seed",
        dropout_forward,
        dropout_backward,
        partial(normal, 270, (20,)),
        "random, and the same each time",
    ),
    correct(
        "identity",
        identity_forward,
        identity_backward,
        partial(normal, 271, (2, 2)),
        "differences have no error at all",
    ),
]
