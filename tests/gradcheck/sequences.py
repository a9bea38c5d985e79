"""Functions over time and over batches, right and wrong, as the equivalence checks are to find them."""

import numpy as np

RNG = np.random.default_rng(31)
X = RNG.standard_normal((2, 6, 3))
W = RNG.standard_normal((3, 3))
KERNEL = RNG.standard_normal((3, 3))


def softmax(s):
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def attention(mask=-np.inf, keep=lambda T: np.tril(np.ones((T, T), bool))):
    """Return a head whose queries, keys and values are x itself; `mask` is added where `keep` is false."""

    def forward(x):
        s = x @ np.swapaxes(x, -1, -2) / np.sqrt(x.shape[-1])
        return softmax(s + np.where(keep(x.shape[-2]), 0.0, mask)) @ x

    return forward


def attention_pair(mask=-np.inf, mask_in_backward=True, keep=lambda T: np.tril(np.ones((T, T), bool))):
    def forward(x, w):
        v = x @ w
        scale = 1 / np.sqrt(x.shape[-1])
        s = scale * x @ np.swapaxes(x, -1, -2)
        p = softmax(s + np.where(keep(x.shape[-2]), 0.0, mask))
        return p @ v, (x, w, v, p, s, scale)

    def backward(dout, cache):
        x, w, v, p, s, scale = cache
        if not mask_in_backward:
            p = softmax(s)
        dp, dv = dout @ np.swapaxes(v, -1, -2), np.swapaxes(p, -1, -2) @ dout
        ds = scale * p * (dp - (dp * p).sum(-1, keepdims=True))
        dx = ds @ x + np.swapaxes(ds, -1, -2) @ x + dv @ w.T
        return dx, np.einsum("btc,btd->cd", x, dv)

    return forward, backward


def global_maximum(x):
    """Subtract the maximum of all scores: rounding alone crosses time."""
    s = x @ np.swapaxes(x, -1, -2) / np.sqrt(x.shape[-1])
    e = np.exp(s - s.max()) * np.tril(np.ones(s.shape[-2:]))
    return e / e.sum(-1, keepdims=True) @ x


def convolution(left, right):
    def forward(x):
        T = x.shape[1]
        padded = np.pad(x, ((0, 0), (left, right), (0, 0)))
        return sum(padded[:, k : k + T] * KERNEL[k] for k in range(3))

    return forward


def fft_convolution(x):
    """A causal convolution by FFT, in which rounding crosses time."""
    n = 2 * x.shape[1]
    kernel = np.fft.rfft(KERNEL, n, axis=0)
    return np.fft.irfft(np.fft.rfft(x, n, axis=1) * kernel, n, axis=1)[:, : x.shape[1]]


def circular_convolution(x):
    n = x.shape[1]
    kernel = np.fft.rfft(KERNEL, n, axis=0)
    return np.fft.irfft(np.fft.rfft(x, n, axis=1) * kernel, n, axis=1)


def recurrent(x):
    h, hs = np.zeros(x[:, 0].shape), []
    for t in range(x.shape[1]):
        h = np.tanh(x[:, t] @ W + 0.5 * h)
        hs.append(h)
    return np.stack(hs, axis=1)


def total_less_suffix(x):
    """Sums up to t, as the total less what comes later."""
    later = np.cumsum(x[:, ::-1], axis=1)[:, ::-1] - x
    return x.sum(axis=1, keepdims=True) - later


def leak(size):
    def forward(x):
        later = np.cumsum(x[:, ::-1], axis=1)[:, ::-1] - x
        return recurrent(x) + size * later

    return forward


def flash(x):
    """Attention in blocks of two, with a running maximum."""
    out, (B, T, C) = np.zeros_like(x), x.shape
    for i in range(0, T, 2):
        q, m, total, acc = x[:, i : i + 2], np.full((B, 2, 1), -np.inf), np.zeros((B, 2, 1)), np.zeros((B, 2, C))
        for j in range(0, i + 2, 2):
            k = x[:, j : j + 2]
            s = q @ np.swapaxes(k, 1, 2)
            s = np.where(np.arange(i, i + 2)[:, None] >= np.arange(j, j + 2), s, -np.inf)
            new = np.maximum(m, s.max(axis=-1, keepdims=True))
            p, keep = np.exp(s - new), np.exp(m - new)
            total, acc, m = total * keep + p.sum(axis=-1, keepdims=True), acc * keep + p @ k, new
        out[:, i : i + 2] = acc / total
    return out


def log_cumulated(x):
    """Log-sum-exp up to t, with the maximum over all time."""
    m = x.max(axis=1, keepdims=True)
    return m + np.log(np.cumsum(np.exp(x - m), axis=1))


def doubling(x):
    """A sum up to t in log T steps."""
    step = 1
    while step < x.shape[1]:
        x = x + np.pad(x, ((0, 0), (step, 0), (0, 0)))[:, : x.shape[1]]
        step *= 2
    return x


def chaotic(x):
    h, hs = np.full(x[:, 0].shape, 0.3), []
    for t in range(x.shape[1]):
        h = np.clip(3.5 * h * (1 - h) + 0.05 * np.tanh(x[:, t]), 0, 1)
        hs.append(h)
    return np.stack(hs, axis=1)


LOWER = np.tril(0.3 * np.ones((6, 6))) + np.eye(6)
DECAY = 0.5 ** np.arange(6)[:, None]
BLOCK = np.arange(6) // 3

# which earlier places a place may look at, right and wrong
KEEP = {
    "one too many": lambda T: np.tril(np.ones((T, T), bool), 1),
    "upper triangle": lambda T: np.triu(np.ones((T, T), bool)),
    "whole blocks": lambda T: BLOCK[:, None] >= BLOCK,
    "the first place sees all": lambda T: np.tril(np.ones((T, T), bool)) | (np.arange(T) == 0)[:, None],
    "all see the last place": lambda T: np.tril(np.ones((T, T), bool)) | (np.arange(T) == T - 1),
}

RIGHT = {
    "attention": attention(),
    "attention to two places": attention(keep=lambda T: np.tril(np.triu(np.ones((T, T), bool), -1))),
    "the maximum of all scores": global_maximum,
    "convolution padded at the left": convolution(2, 0),
    "convolution by FFT": fft_convolution,
    "recurrent": recurrent,
    "running mean": lambda x: np.cumsum(x, axis=1) / np.arange(1, x.shape[1] + 1)[:, None],
    "total less what is later": total_less_suffix,
    "running maximum": lambda x: np.maximum.accumulate(x, axis=1),
    "positions and scale": lambda x: 1e6 + np.cumsum(1e-3 * x, axis=1),
    "attention in blocks": flash,
    "linear attention": lambda x: np.einsum("btc,btcd->btd", x, np.cumsum(x[..., None] * x[:, :, None], axis=1)),
    "decay by powers": lambda x: DECAY * np.cumsum(x / DECAY, axis=1),
    "log of cumulated exponentials": log_cumulated,
    "sums by doubling": doubling,
    "triangular solve": lambda x: np.linalg.solve(LOWER, x),
    "triangular inverse": lambda x: np.linalg.inv(LOWER) @ x,
    "products": lambda x: np.cumprod(x, axis=1),
    "differences": lambda x: np.diff(x, axis=1, prepend=0),
    "chaotic": chaotic,
    "less the mean, and it again": lambda x: np.cumsum(x - x.mean(), axis=1) + x.mean() * np.arange(1, 7)[:, None],
    "two outputs": lambda x: (recurrent(x), {"mean": np.cumsum(x, axis=1)}),
}

WRONG = {
    "no mask": attention(0.0),
    "mask of -30": attention(-30.0),
    "mask of -1e4": attention(-1e4),
    "mask of -1e9": attention(-1e9),
    **{f"mask: {name}": attention(keep=keep) for name, keep in KEEP.items()},
    "mask multiplied into the scores": lambda x: softmax(np.tril(x @ np.swapaxes(x, 1, 2))) @ x,
    "mask after softmax": lambda x: np.tril(softmax(x @ np.swapaxes(x, 1, 2))) @ x,
    "convolution padded on both sides": convolution(1, 1),
    "convolution around the end": circular_convolution,
    "bidirectional": lambda x: recurrent(x) + recurrent(x[:, ::-1])[:, ::-1],
    "bidirectional, a second output": lambda x: (recurrent(x), recurrent(x[:, ::-1])[:, ::-1]),
    "normalised over time": lambda x: recurrent(x) - x.mean(axis=1, keepdims=True),
    "divided by the largest": lambda x: np.cumsum(x, axis=1) / np.abs(x).max(axis=(1, 2), keepdims=True),
    "gated by a share of all": lambda x: np.cumsum(x, axis=1) * (1 + (x > 0).mean(axis=1, keepdims=True)),
    "given the next place": lambda x: np.cumsum(x, axis=1) + np.roll(x, -1, axis=1),
    "the last place wraps to the first": lambda x: np.cumsum(x, axis=1) + np.roll(x, 1, axis=1),
    "summed from the end": lambda x: np.cumsum(x[:, ::-1], axis=1)[:, ::-1],
    "a leak of 1e-9": leak(1e-9),
    "a leak of 1e-12": leak(1e-12),
    "a leak that wiggles": lambda x: recurrent(x) + 1e-6 * np.sin(1e3 * x.sum(axis=1, keepdims=True)),
    "a leak of a rounded sum": lambda x: recurrent(x) + 1e-6 * np.round(x.sum(axis=1, keepdims=True)),
    "a leak of the largest": lambda x: recurrent(x) + 1e-8 * x.max(axis=1, keepdims=True),
    "a leak of exp(-25)": lambda x: recurrent(x) + np.exp(x.sum(axis=1, keepdims=True) - 25),
    "a leak beside numbers of 1e20": lambda x: np.concatenate([np.full(x.shape, -1e20), leak(1e-9)(x)], axis=2),
}
