"""Tables and ids: repeats, padding, ends that share a table, positions that share a row."""

from functools import partial

import numpy as np

from tests.gradcheck.example import normal, planted

IDS = np.array([[2, 0, 2, 5], [5, 2, 4, 0]])
PAD = 0


def add_at(shape, ids, values):
    table = np.zeros(shape, values.dtype)
    np.add.at(table, ids, values)
    return table


def embedding_forward(ids, weight):
    """Look up; the padding id gives zeros whatever its row holds."""
    return weight[ids] * (ids != PAD)[..., None], (ids, weight.shape)


def embedding_backward(dout, cache, slip=""):
    ids, shape = cache
    masked = dout * (ids != PAD)[..., None]
    dweight = np.zeros(shape, dout.dtype)
    match slip:
        case "repeats overwrite":
            dweight[ids] = masked
        case "repeats added by fancy +=":
            dweight[ids] += masked
        case "padding row has a gradient":
            return add_at(shape, ids, dout)
        case "divided by how often an id occurs":
            counts = np.maximum(np.bincount(ids.ravel(), minlength=shape[0]), 1)
            return add_at(shape, ids, masked) / counts[:, None]
        case "first of the batch alone":
            return add_at(shape, ids[0], masked[0])
        case "highest id dropped":
            dweight = add_at(shape, ids, masked)
            dweight[ids.max()] = 0
            return dweight
        case "ids shifted by one":
            return add_at(shape, (ids + 1) % shape[0], masked)
        case _:
            return add_at(shape, ids, masked)
    return dweight


def positions_forward(tokens, positions):
    """Add a row for each position: (B, T, C) and (T, C)."""
    return tokens + positions, None


def positions_backward(dout, cache, slip=""):
    match slip:
        case "dpositions of the first in the batch":
            return dout.copy(), dout[0].copy()
        case "dpositions summed over time":
            return dout.copy(), np.broadcast_to(dout.sum(axis=(0, 1)), dout.shape[1:]).copy()
        case "dpositions averaged over the batch":
            return dout.copy(), dout.mean(axis=0)
    return dout.copy(), dout.sum(axis=0)


def tied_forward(ids, table, bias):
    """Look up, bend, and score against the same table."""
    hidden = np.tanh(table[ids])
    return hidden @ table.T + bias, (ids, table, hidden)


def tied_backward(dout, cache, slip=""):
    ids, table, hidden = cache
    V, C = table.shape
    lookup = add_at(table.shape, ids, dout @ table * (1 - hidden * hidden))
    scores = dout.reshape(-1, V).T @ hidden.reshape(-1, C)
    dbias = dout.reshape(-1, V).sum(axis=0)
    match slip:
        case "end at the scores alone":
            return scores, dbias
        case "end at the lookup alone":
            return lookup, dbias
        case "ends averaged":
            return (lookup + scores) / 2, dbias
    return lookup + scores, dbias


def scaled_forward(ids, weight):
    return weight[ids] * np.sqrt(weight.shape[1]), (ids, weight.shape)


def scaled_backward(dout, cache, slip=""):
    ids, shape = cache
    return add_at(shape, ids, dout * (1 if slip == "sqrt(C) forgotten" else np.sqrt(shape[1])))


def bag_forward(ids, weight):
    """Average the rows of each bag."""
    return weight[ids].mean(axis=1), (ids, weight.shape)


def bag_backward(dout, cache, slip=""):
    ids, shape = cache
    size = 1 if slip == "not divided by the bag" else ids.shape[1]
    spread = np.repeat(dout[:, None] / size, ids.shape[1], axis=1)
    if slip == "an id twice in a bag counted once":
        dweight = np.zeros(shape, dout.dtype)
        for bag, d in zip(ids, dout, strict=True):
            dweight[np.unique(bag)] += d / size
        return dweight
    return add_at(shape, ids, spread)


table = partial(
    planted,
    "embedding",
    forward=embedding_forward,
    right=embedding_backward,
    args=lambda: (IDS.copy(), *normal(71, (7, 3))),
)
tied = partial(
    planted,
    "tied embedding",
    forward=tied_forward,
    right=tied_backward,
    args=lambda: (IDS.copy(), *normal(72, (6, 3), (6,))),
)
positions = partial(
    planted,
    "position embedding",
    forward=positions_forward,
    right=positions_backward,
    args=partial(normal, 73, (2, 4, 3), (4, 3)),
)
bag = partial(
    planted, "embedding bag", forward=bag_forward, right=bag_backward, args=lambda: (IDS.copy(), *normal(74, (6, 3)))
)

BUGS = [
    table("repeats overwrite", source="https://github.com/pytorch/pytorch/issues/1528"),
    table("repeats added by fancy +=", source="https://github.com/pytorch/pytorch/issues/1631", note="there in gather"),
    table("padding row has a gradient", source="https://github.com/pytorch/pytorch/issues/26302"),
    table("divided by how often an id occurs"),
    table("first of the batch alone"),
    table("highest id dropped"),
    table("ids shifted by one"),
    positions("dpositions of the first in the batch"),
    positions("dpositions summed over time"),
    positions("dpositions averaged over the batch"),
    tied("end at the scores alone", source="https://github.com/paiml/entrenar/issues/314"),
    tied("end at the lookup alone", source="https://github.com/paiml/entrenar/issues/314"),
    tied("ends averaged"),
    planted(
        "scaled embedding",
        "sqrt(C) forgotten",
        scaled_forward,
        scaled_backward,
        lambda: (IDS.copy(), *normal(75, (6, 4))),
    ),
    bag("not divided by the bag"),
    bag("an id twice in a bag counted once"),
]
