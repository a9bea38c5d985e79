"""Rules that shape the distribution or exclude its tail: functions from logits (V,) to logits (V,).

-inf excludes a token. Logits have at least one that is finite, and no rule here excludes the last one.
"""

import math

import numpy as np

from npgpt.generation.rules.distribution import log_softmax, softmax

SORTED = 2048  # so many tokens are sorted faster than divided
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
    out = logits - logits.max()
    with np.errstate(over="ignore"):  # an overflow gives -inf, which excludes the token
        out /= temperature
    return out


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
    probs = softmax(logits)
    # the others sum to less than 1 - p, so that those that are kept are among these
    likely = np.flatnonzero(probs > (1 - p) / (2 * len(logits)))
    keys, weights, n, start = narrowed(-logits.take(likely), probs.take(likely), p)
    before = start + cumulated_before(np.sort(weights)[::-1])
    if n and np.abs(before - p).min() < 1e-10:  # rounding decides: add up in the order of the definition
        keys, n, before = -logits[likely], 0, cumulated_before(np.sort(probs[likely])[::-1])
    inside = int((before < p).sum())
    return keep_largest(logits, n + inside, -np.partition(keys, inside - 1)[inside - 1])


def cumulated_before(weights: np.ndarray) -> np.ndarray:
    """Return the sum of all earlier weights, for each: [0.5, 0.3, 0.2] gives [0, 0.5, 0.8]."""
    return np.concatenate(([0.0], np.cumsum(weights)[:-1]))


def narrowed(keys: np.ndarray, weights: np.ndarray, mass: float) -> tuple[np.ndarray, np.ndarray, int, float]:
    """Return the few tokens among which the weights, added up by rising keys, reach a mass.

    Returns their keys and weights, and the number and the summed weights of the tokens with smaller keys. Tokens of
    equal keys stay together. It halves the range of the keys until few are left, which is faster than sorting all.
    """
    n, before = 0, 0.0
    while len(keys) > SORTED:
        low = keys <= 0.5 * keys.min() + 0.5 * keys.max()
        part = np.flatnonzero(low)  # indices are faster than a mask
        if len(part) == len(keys):  # all keys are equal
            break
        lower = weights.take(part)
        if before + lower.sum() < mass:
            n, before = n + len(part), before + lower.sum()
            part = np.flatnonzero(~low)
            lower = weights.take(part)
        keys, weights = keys.take(part), lower
    return keys, weights, n, float(before)


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
    finite = np.flatnonzero(logits > -np.inf)
    logp = log_softmax(logits[finite])
    probs = np.exp(logp)
    distance = np.abs(logp - probs @ logp)
    keys, weights, _, before = narrowed(distance, probs, mass)
    order = np.argsort(keys)
    last = min(int((before + np.cumsum(weights[order]) < mass).sum()), len(order) - 1)
    out = np.full(len(logits), -np.inf)
    kept = finite[distance <= keys[order[last]]]
    out[kept] = logits[kept]
    return out


def cut_epsilon(logits: np.ndarray, epsilon: float) -> np.ndarray:
    """Exclude the tokens whose probability is below epsilon, but never the likeliest.

    >>> cut_epsilon(np.log([0.6, 0.3, 0.1]), 0.2).round(2)
    array([-0.51, -1.2 ,  -inf])

    Source: Hewitt et al., "Truncation Sampling as Language Model Desmoothing", arXiv:2210.15191.
    """
    return keep(logits, (softmax(logits) >= epsilon) | (logits == logits.max()))


def cut_eta(logits: np.ndarray, epsilon: float) -> np.ndarray:
    """Exclude the tokens whose probability is below a limit that falls with the entropy, but never the likeliest.

    kept: p_i >= min(epsilon, sqrt(epsilon) * exp(-H)), with the entropy H = -sum p ln p

    >>> cut_eta(np.log([0.6, 0.3, 0.1]), 0.2).round(2)  # the limit is 0.18
    array([-0.51, -1.2 ,  -inf])

    Source: Hewitt et al., "Truncation Sampling as Language Model Desmoothing", arXiv:2210.15191.
    """
    logp = log_softmax(logits[logits > -np.inf])
    entropy = -np.exp(logp) @ logp
    limit = min(epsilon, math.sqrt(epsilon) * math.exp(-entropy))
    return keep(logits, (softmax(logits) >= limit) | (logits == logits.max()))


def keep_top_n_sigma(logits: np.ndarray, n: float) -> np.ndarray:
    """Exclude the tokens whose logit is more than n standard deviations below the largest one.

    kept: l_i >= max l - n * sigma, with sigma over the tokens that are not excluded yet

    >>> keep_top_n_sigma(np.array([4.0, 3.0, 0.0, 0.0]), 1)  # sigma is 1.79
    array([  4.,   3., -inf, -inf])

    Source: Tang et al., "Top-n-sigma: Not All Logits Are You Need", arXiv:2411.07641.
    """
    sigma = logits[logits > -np.inf].std()
    return keep(logits, logits >= logits.max() - n * sigma)
