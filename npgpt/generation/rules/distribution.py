"""Logits as a distribution: its probabilities, its likeliest tokens, and one drawn from it."""

import numpy as np


def exps(logits: np.ndarray) -> np.ndarray:
    """Return exp(l - max l) of logits (V,), which is in proportion to their probabilities."""
    top = logits.max()
    if logits.min() > -np.inf:
        out = logits - top  # one array: fresh memory for another would cost more than the arithmetic
        return np.exp(out, out=out)
    kept = np.flatnonzero(logits > -np.inf)
    out = np.zeros(len(logits))
    out[kept] = np.exp(logits[kept] - top)  # np.exp of -inf is slow
    return out


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of logits (V,)."""
    out = exps(logits)
    out /= out.sum()
    return out


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return the logarithms of the probabilities of logits (V,): -inf for a token that is excluded."""
    total = exps(logits).sum()
    out = logits - logits.max()
    out -= np.log(total)
    return out


def draw(logits: np.ndarray, rng: np.random.Generator) -> int:
    """Draw a token from the distribution of logits.

    It is the token that `rng.choice(V, p=softmax(logits))` draws, and takes one number from rng, as that does. Tokens
    that are excluded cost no time, and change no bit of the sums.
    """
    return pick(softmax(logits), rng)


def pick(p: np.ndarray, rng: np.random.Generator) -> int:
    """Draw a token by the probabilities of all, (V,), which need not add up to 1 exactly. p is used up."""
    possible = p > 0
    if few := 4 * np.count_nonzero(possible) < len(p):
        p = p[possible]
    np.cumsum(p, out=p)
    p /= p[-1]
    place = int(p.searchsorted(rng.random(), side="right"))
    return int(np.flatnonzero(possible)[place]) if few else place


def likeliest(logits: np.ndarray, n: int) -> np.ndarray:
    """Return the n likeliest tokens for logits (V,), or all, the likeliest first; of equally likely ones the first.

    >>> likeliest(np.array([3.0, 5.0, -np.inf, 5.0]), 3)
    array([1, 3, 0])
    """
    if n == 0:
        return np.zeros(0, np.int64)
    among = np.flatnonzero(logits >= np.partition(logits, -n)[-n]) if n < len(logits) else np.arange(len(logits))
    return among[np.argsort(-logits[among], kind="stable")][:n]
