"""Rules against repetition: functions from ids (T,), the tokens that count, and logits (V,) to logits (V,)."""

import numpy as np


def counted(ids: np.ndarray, prompt_length: int, window: int | None, penalize_prompt: bool) -> np.ndarray:
    """Return the tokens that count as repeated: the last `window` ones, without the prompt if it does not count.

    >>> counted(np.array([1, 2, 3, 4, 5]), 2, 4, True), counted(np.array([1, 2, 3, 4, 5]), 2, 4, False)
    (array([2, 3, 4, 5]), array([3, 4, 5]))
    """
    ids = ids if penalize_prompt else ids[prompt_length:]
    return ids if window is None else ids[-window:]


def penalize_repetition(ids: np.ndarray, logits: np.ndarray, penalty: float) -> np.ndarray:
    """Make the tokens that occur in ids less likely, however often they occur.

    l_i -> l_i / penalty if l_i > 0, otherwise l_i * penalty

    >>> penalize_repetition(np.array([0, 1, 1]), np.array([3.0, -1.0, 1.0]), 1.5)
    array([ 2. , -1.5,  1. ])

    Source: Keskar et al., "CTRL: A Conditional Transformer Language Model for Controllable Generation",
    arXiv:1909.05858; negative logits as in transformers.
    """
    seen = np.unique(ids[ids < len(logits)])
    out = logits.copy()
    out[seen] = np.where(logits[seen] < 0, logits[seen] * penalty, logits[seen] / penalty)
    return out


def penalize_presence(ids: np.ndarray, logits: np.ndarray, presence: float, frequency: float) -> np.ndarray:
    """Subtract from the logits of tokens that occur in ids, once and for each time that they occur.

    l_i -> l_i - presence * [n_i > 0] - frequency * n_i, for n_i occurrences

    >>> penalize_presence(np.array([0, 1, 1]), np.array([3.0, 3.0, 3.0]), 0.5, 0.25)
    array([2.25, 2.  , 3.  ])

    Source: OpenAI's API reference, presence_penalty and frequency_penalty.
    """
    seen, counts = np.unique(ids[ids < len(logits)], return_counts=True)
    out = logits.copy()
    out[seen] -= presence + frequency * counts
    return out


def penalize_dry(
    ids: np.ndarray,
    logits: np.ndarray,
    multiplier: float,
    base: float = 1.75,
    allowed_length: int = 2,
    breaks: np.ndarray | None = None,
) -> np.ndarray:
    """Make a token less likely that would continue a sequence as it went on before; the longer, the less likely.

    l_i -> l_i - multiplier * base ** (n_i - allowed_length) if n_i >= allowed_length, where n_i is the length of the
    longest sequence at the end of ids that was followed by token i before. A breaker is part of no sequence, and is
    never made less likely.

    breaks  (T,) bool: which of ids are breakers

    >>> penalize_dry(np.array([5, 1, 2, 3, 5, 1, 2]), np.zeros(6), 0.8, 2.0)  # 5 1 2 was followed by 3
    array([ 0. ,  0. ,  0. , -1.6,  0. ,  0. ])

    Source: P. E. Weidmann, "DRY: A modern repetition penalty",
    https://github.com/oobabooga/text-generation-webui/pull/5677.
    """
    n = len(ids)
    breaks = np.zeros(n, bool) if breaks is None else breaks
    lengths = np.zeros(len(logits), np.int64)
    places = np.flatnonzero(~breaks & (ids < len(logits)))  # whose token may come again
    for length in range(1, n):
        if breaks[n - length]:
            break
        places = places[places >= length]
        places = places[ids[places - length] == ids[n - length]]
        if not places.size:
            break
        lengths[ids[places]] = length
    out = logits.copy()
    found = np.flatnonzero(lengths >= allowed_length)
    with np.errstate(over="ignore"):  # an overflow excludes the token
        out[found] -= multiplier * base ** (lengths[found] - allowed_length).astype(np.float64)
    return out


def exclude_repeated_ngrams(ids: np.ndarray, logits: np.ndarray, n: int) -> np.ndarray:
    """Exclude the tokens that would complete a sequence of n tokens that is in ids already.

    >>> exclude_repeated_ngrams(np.array([1, 2, 3, 1, 2]), np.zeros(5), 3)
    array([  0.,   0.,   0., -inf,   0.])

    Source: Paulus et al., "A Deep Reinforced Model for Abstractive Summarization", arXiv:1705.04304.
    """
    places = np.arange(n - 1, len(ids))
    for back in range(1, n if places.size else 1):  # shorter texts do not have n - 1 tokens to look back at
        places = places[ids[places - back] == ids[-back]]
    out = logits.copy()
    last = ids[places]
    out[last[last < len(logits)]] = -np.inf
    return out
