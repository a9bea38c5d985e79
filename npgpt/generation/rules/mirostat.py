"""Mirostat 2: a limit on surprise that follows what has been drawn."""

import numpy as np

from npgpt.generation.rules.distribution import log_softmax
from npgpt.generation.rules.truncation import keep


def keep_surprise(logits: np.ndarray, most: float) -> np.ndarray:
    """Exclude the tokens whose surprise is above a limit, but never the likeliest.

    kept: -ln p_i <= most

    >>> keep_surprise(np.log([0.6, 0.3, 0.1]), 1.5).round(2)
    array([-0.51, -1.2 ,  -inf])
    """
    return keep(logits, (-log_softmax(logits) <= most) | (logits == logits.max()))


def next_limit(limit: float, surprise: float, tau: float, eta: float) -> float:
    """Return the limit for the next token, after one of a certain surprise was drawn. The first limit is 2 * tau.

    limit -> limit - eta * (surprise - tau), with surprise = -ln p of the token among those that were kept

    All are in nats; llama.cpp counts in bits, so its tau of 5 is 3.47 here.

    >>> round(next_limit(6.0, 4.0, 3.0, 0.1), 2)
    5.9

    Source: Basu et al., "Mirostat: A Neural Text Decoding Algorithm that Directly Controls Perplexity",
    arXiv:2007.14966; version 2 and the surprise among the kept tokens as in llama.cpp.
    """
    return limit - eta * (surprise - tau)
