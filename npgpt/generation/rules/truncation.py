"""Rules that shape the distribution or exclude its tail: functions from logits (V,) to logits (V,).

-inf excludes a token. Logits have at least one that is finite, and no rule here excludes the last one.
"""

import math

import numpy as np

from npgpt.generation.rules.distribution import log_softmax, softmax

BLOCKS = 1024  # of logits, whose maxima bound the k-th largest logit for any k up to a quarter of them


def keep(logits: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Exclude all tokens but those where `kept` (V,) is true."""
    return np.where(kept, logits, -np.inf)


def apply_temperature(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Divide the logits by the temperature. Temperature 0 keeps only the likeliest token, or the first of several.

    l_i -> (l_i - max l) / T, which has the same probabilities as l_i / T

    >>> apply_temperature(np.array([1.0, 3.0]), 0.5)
    array([-4.,  0.])

    Source: Ackley et al., "A Learning Algorithm for Boltzmann Machines", Cognitive Science 9 (1985).
    """
    if temperature == 0:
        out = np.full(len(logits), -np.inf)
        out[logits.argmax()] = 0.0
        return out
    with np.errstate(over="ignore"):  # an overflow gives -inf, which excludes the token
        return (logits - logits.max()) / temperature


def keep_top_k(logits: np.ndarray, k: int) -> np.ndarray:
    """Exclude all but the k likeliest tokens. Of equally likely tokens the first ones are kept.

    transformers keeps all tokens that are as likely as the k-th, which may be more than k.

    >>> keep_top_k(np.array([1.0, 3.0, 2.0, 2.0]), 2)
    array([-inf,   3.,   2., -inf])

    Source: Fan et al., "Hierarchical Neural Story Generation", arXiv:1805.04833.
    """
    if k >= len(logits):
        return logits.copy()
    return keep_largest(logits, k, kth_largest(logits, k))


def kth_largest(logits: np.ndarray, k: int) -> float:
    """Return the k-th largest of more than k logits."""
    size = len(logits) // BLOCKS
    if size > 1 and 4 * k <= BLOCKS:
        # k blocks have a maximum of at least `least`, so k logits are at least that large, and the others do not matter
        maxima = logits[: BLOCKS * size].reshape(size, BLOCKS).max(0)
        least = np.partition(maxima, BLOCKS - k)[BLOCKS - k]
        logits = logits[logits >= least]
    return float(np.partition(logits, len(logits) - k)[len(logits) - k])


def keep_largest(logits: np.ndarray, n: int, nth: float) -> np.ndarray:
    """Exclude all but the n largest logits, of which `nth` is the smallest; of equal ones the first are kept."""
    kept = logits > nth
    equal = np.flatnonzero(logits == nth)
    kept[equal[: n - np.count_nonzero(kept)]] = True
    return keep(logits, kept)


def keep_top_p(logits: np.ndarray, p: float) -> np.ndarray:
    """Exclude all but the fewest tokens, the likeliest first, whose probabilities sum to at least p.

    Of equally likely tokens the first ones are kept.

    >>> keep_top_p(np.log([0.4, 0.1, 0.3, 0.2]), 0.65).round(2)
    array([-0.92,  -inf, -1.2 ,  -inf])

    Source: Holtzman et al., "The Curious Case of Neural Text Degeneration", arXiv:1904.09751.
    """
    top = logits.max()
    exp = np.exp(logits - top)
    total = exp.sum()
    # sort only tokens above a probability that leaves enough of them
    for least in (1e-3, 1e-4, 1e-5, 0.0):
        candidates = logits >= top + math.log(least * total) if least else logits > -np.inf
        if exp[candidates].sum() >= (p + 1e-9) * total:
            break
    ordered = np.sort(logits[candidates])[::-1]
    before = np.cumsum(np.exp(ordered - top) / total)
    before = np.concatenate(([0.0], before[:-1]))  # the total probability of all likelier tokens
    n = int((before < p).sum())
    return keep_largest(logits, n, ordered[n - 1])


def keep_min_p(logits: np.ndarray, min_p: float) -> np.ndarray:
    """Exclude the tokens whose probability is below a share of the largest one.

    kept: p_i >= min_p * max p, which is l_i >= max l + ln(min_p)

    >>> keep_min_p(np.log([0.5, 0.3, 0.2]), 0.5).round(2)
    array([-0.69, -1.2 ,  -inf])

    Source: Nguyen et al., "Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs",
    arXiv:2407.01082.
    """
    return logits.copy() if min_p == 0 else keep(logits, logits >= logits.max() + math.log(min_p))


def keep_typical(logits: np.ndarray, mass: float) -> np.ndarray:
    """Keep the tokens whose surprise is nearest to the one expected, as many as it takes to sum to the mass.

    d_i = |-ln p_i - H|, with the entropy H = -sum p ln p; kept: d_i <= D, for the smallest D whose tokens sum to at
    least the mass. The likeliest token may be excluded.

    >>> keep_typical(np.log([0.6, 0.3, 0.1]), 0.2).round(2)
    array([-inf, -1.2, -inf])

    Source: Meister et al., "Locally Typical Sampling", arXiv:2202.00666.
    """
    logp = log_softmax(logits)
    finite = np.flatnonzero(logp > -np.inf)
    surprise, p = -logp[finite], np.exp(logp[finite])
    distance = np.abs(surprise - p @ surprise)
    order = np.argsort(distance)
    last = min(int((np.cumsum(p[order]) < mass).sum()), len(order) - 1)
    out = np.full(len(logits), -np.inf)
    kept = finite[distance <= distance[order[last]]]
    out[kept] = logits[kept]
    return out


def cut_epsilon(logits: np.ndarray, epsilon: float) -> np.ndarray:
    """Exclude the tokens whose probability is below epsilon, but never the likeliest.

    >>> cut_epsilon(np.log([0.6, 0.3, 0.1]), 0.2).round(2)
    array([-0.51, -1.2 ,  -inf])

    Source: Hewitt et al., "Truncation Sampling as Language Model Desmoothing", arXiv:2210.15191.
    """
    p = softmax(logits)
    return keep(logits, (p >= epsilon) | (logits == logits.max()))


def cut_eta(logits: np.ndarray, epsilon: float) -> np.ndarray:
    """Exclude the tokens whose probability is below a limit that falls with the entropy, but never the likeliest.

    kept: p_i >= min(epsilon, sqrt(epsilon) * exp(-H)), with the entropy H = -sum p ln p

    >>> cut_eta(np.log([0.6, 0.3, 0.1]), 0.2).round(2)  # the limit is 0.18
    array([-0.51, -1.2 ,  -inf])

    Source: Hewitt et al., "Truncation Sampling as Language Model Desmoothing", arXiv:2210.15191.
    """
    logp = log_softmax(logits)
    p = np.exp(logp)
    finite = p > 0
    entropy = -(p[finite] @ logp[finite])
    limit = min(epsilon, math.sqrt(epsilon) * math.exp(-entropy))
    return keep(logits, (p >= limit) | (logits == logits.max()))


def keep_top_n_sigma(logits: np.ndarray, n: float) -> np.ndarray:
    """Exclude the tokens whose logit is more than n standard deviations below the largest one.

    kept: l_i >= max l - n * sigma, with sigma over the tokens that are not excluded yet

    >>> keep_top_n_sigma(np.array([4.0, 3.0, 0.0, 0.0]), 1)  # sigma is 1.79
    array([  4.,   3., -inf, -inf])

    Source: Tang et al., "Top-n-sigma: Not All Logits Are You Need", arXiv:2411.07641.
    """
    sigma = logits[logits > -np.inf].std()
    return keep(logits, logits >= logits.max() - n * sigma)
