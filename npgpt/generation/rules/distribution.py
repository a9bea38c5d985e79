"""Logits as a distribution: its probabilities, and a token drawn from it."""

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of logits (V,)."""
    exp = np.exp(logits - logits.max())
    return exp / exp.sum()


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return the logarithms of the probabilities of logits (V,): -inf for a token that is excluded."""
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def draw(logits: np.ndarray, rng: np.random.Generator) -> int:
    """Draw a token from the distribution of logits.

    It is the token that `rng.choice(V, p=softmax(logits))` draws, bit for bit, but only the tokens that are not
    excluded cost time: their probabilities are divided by a sum over all tokens in the same order.
    """
    kept = np.flatnonzero(logits > -np.inf)
    exp = np.zeros(len(logits))
    exp[kept] = np.exp(logits[kept] - logits.max())
    cumulative = np.cumsum(exp[kept] / exp.sum())
    cumulative /= cumulative[-1]
    return int(kept[cumulative.searchsorted(rng.random(), side="right")])
