"""Moving, repeating and picking elements: axes, offsets, repeats, the inverse of a permutation."""

from functools import partial

import numpy as np

from tests.gradcheck.example import normal, planted


def permute_forward(x, axes):
    return x.transpose(axes) ** 2, (x, axes)


def permute_backward(dout, cache, slip=""):
    x, axes = cache
    back = axes if slip == "axes for their inverse" else np.argsort(axes)
    return dout.transpose(back) * 2 * x


def split_heads_forward(x, H):
    B, T, C = x.shape
    return x.reshape(B, T, H, C // H).transpose(0, 2, 1, 3), x.shape


def split_heads_backward(dout, shape, slip=""):
    if slip == "reshaped without the transpose":
        return dout.reshape(shape)
    return dout.transpose(0, 2, 1, 3).reshape(shape)


def broadcast_forward(a, b):
    """Multiply (N, 1) with (N,): every pair."""
    return a * b, (a, b)


def broadcast_backward(dout, cache, slip=""):
    a, b = cache
    da, db = (dout * b).sum(axis=1, keepdims=True), (dout * a).sum(axis=0)
    match slip:
        case "db summed over the other axis":
            db = (dout * a).sum(axis=1)
        case "da averaged":
            da = da / len(b)
        case "da of the first column":
            da = dout[:, :1] * b[0]
    return da, db


def concat_forward(a, b):
    return np.tanh(np.concatenate((a, b), axis=1)), (a.shape[1], np.concatenate((a, b), axis=1))


def concat_backward(dout, cache, slip=""):
    n, x = cache
    dx = dout * (1 - np.tanh(x) ** 2)
    match slip:
        case "second part off by one":
            return dx[:, :n], np.roll(dx, 1, axis=1)[:, n:]
        case "second part starts at zero":
            return dx[:, :n], dx[:, : dx.shape[1] - n]
    return dx[:, :n], dx[:, n:]


def stack_forward(a, b):
    return np.stack((a, b)), None


def stack_backward(dout, cache, slip=""):
    return (dout[0].T, dout[1].T) if slip == "parts transposed" else (dout[0], dout[1])


def shift_forward(x, offset):
    """Keep what comes `offset` steps later, zeros after the end."""
    return np.concatenate((x[offset:], np.zeros_like(x[:offset]))), offset


def shift_backward(dout, offset, slip=""):
    if slip == "shifted the same way, not back":
        return np.concatenate((dout[offset:], np.zeros_like(dout[:offset])))
    if slip == "rolled over the end":
        return np.roll(dout, offset, axis=0)
    return np.concatenate((np.zeros_like(dout[:offset]), dout[:-offset]))


def gather_forward(x, index):
    return np.take_along_axis(x, index, axis=1), (x.shape, index)


def gather_backward(dout, cache, slip=""):
    shape, index = cache
    dx = np.zeros(shape, dout.dtype)
    rows = np.arange(shape[0])[:, None]
    if slip == "repeats overwrite":
        np.put_along_axis(dx, index, dout, axis=1)
        return dx
    np.add.at(dx, (rows, index), dout)
    return dx


def scatter_forward(table, index, rows):
    """Overwrite rows; of those with one index the last stays."""
    out = table.copy()
    out[index] = rows
    return out, (index, rows.shape)


def scatter_backward(dout, cache, slip=""):
    index, _ = cache
    dtable = dout.copy()
    if slip != "overwritten rows of the table keep their gradient":
        dtable[index] = 0
    drows = dout[index]
    if slip != "every repeat takes the gradient":
        last = np.array([i not in index[n + 1 :] for n, i in enumerate(index)])
        drows = drows * last[:, None]
    return dtable, drows


def fill_forward(x, index, value):
    out = x.copy()
    out[index] = value
    return out, index


def fill_backward(dout, index, slip=""):
    dx = dout.copy()
    dx[index] = 0
    rows = index if slip == "a row filled twice counted twice" else np.unique(index)
    return dx, dout[rows].sum()


def cumsum_forward(x):
    return np.cumsum(x, axis=1), None


def cumsum_backward(dout, cache, slip=""):
    match slip:
        case "summed from the front":
            return np.cumsum(dout, axis=1)
        case "summed along the other axis":
            return np.cumsum(dout[::-1], axis=0)[::-1]
        case "own element left out":
            return np.cumsum(dout[:, ::-1], axis=1)[:, ::-1] - dout
    return np.cumsum(dout[:, ::-1], axis=1)[:, ::-1]


def sort_forward(x):
    order = np.argsort(x, axis=1)
    return np.take_along_axis(x, order, axis=1), order


def sort_backward(dout, order, slip=""):
    inverse = order if slip == "order for its inverse" else np.argsort(order, axis=1)
    return np.take_along_axis(dout, inverse, axis=1)


def topk_forward(x, k=2):
    order = np.argpartition(x, -k, axis=1)[:, -k:]
    return np.take_along_axis(x, order, axis=1), (order, x.shape)


def topk_backward(dout, cache, slip=""):
    order, shape = cache
    dx = np.zeros(shape, dout.dtype)
    if slip == "indices of the first row for all":
        order = np.broadcast_to(order[:1], order.shape)
    np.put_along_axis(dx, order, dout, axis=1)
    return dx


def tile_forward(x):
    return np.tile(x, (1, 3)), x.shape


def tile_backward(dout, shape, slip=""):
    if slip == "as if each element were repeated":
        return dout.reshape(shape[0], shape[1], 3).sum(axis=2)
    if slip == "last copy alone":
        return dout[:, -shape[1] :].copy()
    return dout.reshape(shape[0], 3, shape[1]).sum(axis=1)


def flip_forward(x):
    return np.exp(x[:, ::-1]), x


def flip_backward(dout, x, slip=""):
    dflipped = dout * np.exp(x[:, ::-1])
    return dflipped if slip == "not flipped back" else dflipped[:, ::-1]


def tril_forward(x):
    return np.tril(x @ x.T), x


def tril_backward(dout, x, slip=""):
    d = dout if slip == "mask forgotten" else np.tril(dout)
    return (2 * d @ x) if slip == "as if symmetric" else (d + d.T) @ x


def memory_forward(x):
    return np.sin(x), x


def memory_backward(dout, x, slip=""):
    if slip == "elements in the order of memory":
        return (dout.ravel() * np.cos(x.ravel(order="K"))).reshape(x.shape)
    return dout * np.cos(x)


def whole_numbers():
    return normal(104, (3, 4))[0], np.array([[0, 2, 2], [3, 3, 3], [1, 0, 2]])


cube = partial(normal, 101, (3, 3, 3))
pairs = partial(
    planted,
    "broadcast product",
    forward=broadcast_forward,
    right=broadcast_backward,
    args=partial(normal, 102, (4, 1), (4,)),
)
concat = partial(
    planted, "concat", forward=concat_forward, right=concat_backward, args=partial(normal, 103, (2, 3), (2, 3))
)
shift = partial(planted, "shift", forward=shift_forward, right=shift_backward, args=lambda: (*normal(105, (5, 2)), 2))
scatter = partial(
    planted,
    "scatter",
    forward=scatter_forward,
    right=scatter_backward,
    args=lambda: (normal(106, (4, 2))[0], np.array([1, 3, 1]), normal(107, (3, 2))[0]),
)
cumsum = partial(planted, "cumsum", forward=cumsum_forward, right=cumsum_backward, args=partial(normal, 108, (3, 3)))

BUGS = [
    planted("permute", "axes for their inverse", permute_forward, permute_backward, lambda: (*cube(), (1, 2, 0))),
    planted(
        "split heads",
        "reshaped without the transpose",
        split_heads_forward,
        split_heads_backward,
        lambda: (*normal(109, (2, 3, 4)), 2),
    ),
    pairs("db summed over the other axis", source="https://github.com/probcomp/Gen.jl/issues/432"),
    pairs("da averaged"),
    pairs("da of the first column"),
    concat("second part off by one"),
    concat(
        "second part starts at zero",
        source="https://github.com/gHashTag/trinity/issues/519",
        note="there shared offsets",
    ),
    planted(
        "stack",
        "parts transposed",
        stack_forward,
        stack_backward,
        partial(normal, 110, (2, 2), (2, 2)),
        source="https://github.com/Oneflow-Inc/oneflow/issues/8194",
    ),
    shift("shifted the same way, not back"),
    shift("rolled over the end"),
    planted(
        "gather",
        "repeats overwrite",
        gather_forward,
        gather_backward,
        whole_numbers,
        source="https://github.com/pytorch/pytorch/issues/1631",
    ),
    scatter("every repeat takes the gradient", source="https://github.com/tensorflow/tensorflow/issues/56961"),
    scatter("overwritten rows of the table keep their gradient"),
    planted(
        "index fill",
        "a row filled twice counted twice",
        fill_forward,
        fill_backward,
        lambda: (*normal(111, (4, 3)), np.array([2, 2]), np.array(0.5)),
        source="https://github.com/pytorch/pytorch/issues/57006",
    ),
    cumsum("summed from the front"),
    cumsum("summed along the other axis"),
    cumsum("own element left out"),
    planted("sort", "order for its inverse", sort_forward, sort_backward, partial(normal, 112, (2, 5))),
    planted(
        "top-k",
        "indices of the first row for all",
        topk_forward,
        topk_backward,
        partial(normal, 113, (3, 5)),
        source="https://github.com/ml-explore/mlx/issues/1428",
        note="there the same places in both rows",
    ),
    planted("tile", "as if each element were repeated", tile_forward, tile_backward, partial(normal, 114, (2, 4))),
    planted("tile", "last copy alone", tile_forward, tile_backward, partial(normal, 114, (2, 4))),
    planted("flip", "not flipped back", flip_forward, flip_backward, partial(normal, 115, (2, 3))),
    planted("tril of a Gram matrix", "mask forgotten", tril_forward, tril_backward, partial(normal, 116, (3, 2))),
    planted("tril of a Gram matrix", "as if symmetric", tril_forward, tril_backward, partial(normal, 116, (3, 2))),
    planted(
        "sin in Fortran order",
        "elements in the order of memory",
        memory_forward,
        memory_backward,
        lambda: (np.asfortranarray(normal(117, (3, 4))[0]),),
        note="right for C order: the argument's layout must be kept",
    ),
]
