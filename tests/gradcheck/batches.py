"""Functions of batches, whose samples do or do not depend on each other, and ways to sum over a batch in parts."""

import numpy as np

RNG = np.random.default_rng(32)
X = RNG.standard_normal((5, 4))
W = RNG.standard_normal((4, 3))
GAIN = 1 + RNG.random(4)


# --- pairs: out, cache = forward(x, w)


def linear_backward(dout, cache):
    x, w = cache
    dz = dout * (1 - np.tanh(x @ w) ** 2)
    return dz @ w.T, x.T @ dz


def norm(axis):
    """Layer norm for axis 1, batch norm in training for axis 0."""

    def forward(x, w):
        centred = x - x.mean(axis=axis, keepdims=True)
        rstd = 1 / np.sqrt((centred**2).mean(axis=axis, keepdims=True) + 1e-5)
        xhat = centred * rstd
        return xhat @ w, (xhat, rstd, w)

    def backward(dout, cache):
        xhat, rstd, w = cache
        dxhat = dout @ w.T
        mean, slope = dxhat.mean(axis=axis, keepdims=True), (dxhat * xhat).mean(axis=axis, keepdims=True)
        return rstd * (dxhat - mean - xhat * slope), xhat.T @ dout

    return forward, backward


# what a wrong backward makes of the right dx and dw
WRONG_BACKWARDS = {
    "centred": lambda dout, dx, dw, cache: (dx - dx.mean(axis=0), dw),
    "clipped by the norm of all": lambda dout, dx, dw, cache: (dx / max(1.0, np.linalg.norm(cache[0])), dw),
    "divided by the largest input": lambda dout, dx, dw, cache: (dx, dw / np.abs(cache[0]).max()),
    "reversed": lambda dout, dx, dw, cache: (dx[::-1], dw),
    "spread over the batch": lambda dout, dx, dw, cache: (np.broadcast_to(dx.mean(axis=0), dx.shape), dw),
    "a billionth of the others": lambda dout, dx, dw, cache: (dx + 1e-9 * dx.sum(axis=0), dw),
    "the inputs' mean in dw": lambda dout, dx, dw, cache: (dx, cache[0].mean(axis=0)[:, None] * dout.sum(axis=0)),
}

LINEAR = lambda x, w: (np.tanh(x @ w), (x, w)), linear_backward

# --- plain functions of x


WRONG = {
    "global maximum": lambda x: x / np.abs(x).max(),
    "global mean": lambda x: x - x.mean(),
    "softmax over the batch": lambda x: np.exp(x) / np.exp(x).sum(axis=0),
    "cumulated": lambda x: np.cumsum(x, axis=0),
    "rolled": lambda x: x + np.roll(x, 1, axis=0),
    "reversed": lambda x: np.tanh(x[::-1]),
    "clipped by a quantile": lambda x: np.minimum(x, np.median(x)),
    "a billionth of the others": lambda x: np.tanh(x) + 1e-9 * x.sum(axis=0),
    "attention over the batch with a mask of -30": lambda x: _across(x, -30.0),
    "attention over the batch with a mask of -1e4": lambda x: _across(x, -1e4),
    "reshaped": lambda x: np.tanh(x.reshape(x.shape[1], x.shape[0]).T) @ W,
    "first sample as reference": lambda x: x - x[:1],
    "sorted": lambda x: np.sort(x, axis=0),
    "max decides a branch": lambda x: np.exp(x) if x.max() < 1.2 else x,
    "standardised by the batch": lambda x: (x - x.mean(axis=0)) / x.std(axis=0),
}

RIGHT = {
    "row by row": lambda x: np.stack([np.tanh(row @ W) for row in x]),
    "matrix product": lambda x: np.maximum(x @ W, 0),
    "softmax with the maximum of all": lambda x: np.exp(x - x.max()) / np.exp(x - x.max()).sum(axis=1, keepdims=True),
    "layer norm": lambda x: (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True),
    "evaluated batch norm": lambda x: (x - GAIN) / (1 + GAIN) * GAIN,
    "sum over all less the others": lambda x: x.sum() - (x.sum() - x.sum(axis=1)),
    "less the mean, and it again": lambda x: x - x.mean() + x.mean(),
    "there and back by FFT": lambda x: np.fft.ifft(np.fft.fft(x, axis=0), axis=0).real,
    "log-sum-exp with the maximum of all": lambda x: x.max() + np.log(np.exp(x - x.max()).sum(axis=1)),
    "sorted and back": lambda x: np.tanh(x[(order := np.argsort(x[:, 0]))])[np.argsort(order)],
    "unit length": lambda x: x / np.linalg.norm(x, axis=1, keepdims=True),
    "roots": lambda x: np.sqrt(np.abs(x)),
    "attention over the batch with a mask of -inf": lambda x: _across(x, -np.inf),
    "a tree": lambda x: {"hidden": np.tanh(x), "pair": (x @ W, x.argmax(axis=1))},
}


def _across(x, mask):
    s = x @ x.T + np.where(np.eye(len(x)), 0.0, mask)
    e = np.exp(s - s.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True) @ x


# --- ids with padding

IDS = np.array([[3, 1, 4, 0, 0], [2, 5, 0, 0, 0], [1, 1, 2, 3, 0], [4, 0, 0, 0, 0]])
TABLE = RNG.standard_normal((6, 3))


def pooled(ids, divide_by_longest=False):
    """Mean of the embeddings of what is no padding, which is id 0."""
    real = (ids != 0)[..., None]
    count = real.sum(axis=1)
    return (TABLE[ids] * real).sum(axis=1) / np.maximum(count.max() if divide_by_longest else count, 1)


def trimmed(ids):
    """Embeddings up to the longest sample: the output's shape depends on it."""
    return TABLE[ids[:, : max(1, (ids != 0).sum(axis=1).max())]]
