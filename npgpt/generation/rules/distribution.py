"""Logits as a distribution: its probabilities, and a token drawn from it."""

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
    cumulative = softmax(logits)
    possible = cumulative > 0
    if few := 4 * np.count_nonzero(possible) < len(logits):
        cumulative = cumulative[possible]
    np.cumsum(cumulative, out=cumulative)
    cumulative /= cumulative[-1]
    place = int(cumulative.searchsorted(rng.random(), side="right"))
    return int(np.flatnonzero(possible)[place]) if few else place
