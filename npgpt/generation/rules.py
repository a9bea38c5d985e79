"""The rules of sampling: small functions from logits (V,) to logits (V,), in which -inf excludes a token."""

import numpy as np


def apply_temperature(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Divide the logits by the temperature. Temperature 0 keeps only the likeliest token, or the first of several."""
    if temperature == 0:
        return np.where(np.arange(len(logits)) == logits.argmax(), 0.0, -np.inf)
    with np.errstate(over="ignore"):  # an overflow gives -inf, which excludes the token
        return (logits - logits.max()) / temperature


def keep_top_k(logits: np.ndarray, k: int) -> np.ndarray:
    """Exclude all but the k likeliest tokens. Of equally likely tokens the first ones are kept."""
    kept = np.argsort(-logits, kind="stable")[:k]
    out = np.full_like(logits, -np.inf)
    out[kept] = logits[kept]
    return out


def keep_top_p(logits: np.ndarray, p: float) -> np.ndarray:
    """Exclude all but the fewest tokens, the likeliest first, whose probabilities sum to at least p.

    Source: Holtzman et al., "The Curious Case of Neural Text Degeneration", arXiv:1904.09751.
    """
    order = np.argsort(-logits, kind="stable")
    before = np.cumsum(softmax(logits)[order])
    before = np.concatenate(([0.0], before[:-1]))  # the total probability of all likelier tokens
    return keep_top_k(logits, int((before < p).sum()))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of logits (V,)."""
    exp = np.exp(logits - logits.max())
    return exp / exp.sum()


def draw(logits: np.ndarray, rng: np.random.Generator) -> int:
    """Draw a token from the distribution of logits."""
    return int(rng.choice(len(logits), p=softmax(logits)))
