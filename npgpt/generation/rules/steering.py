"""Rules for what must and must not be written: functions from ids (T,) and logits (V,) to logits (V,)."""

from collections.abc import Mapping, Sequence

import numpy as np

from npgpt.generation.rules.distribution import log_softmax
from npgpt.generation.rules.spelling import Spelling, Words


def without(logits: np.ndarray, tokens: np.ndarray | list[int]) -> np.ndarray:
    """Exclude tokens; ids beyond the logits are ignored, since a model's vocabulary may be smaller or padded."""
    tokens = np.asarray(tokens, np.int64)
    out = logits.copy()
    out[tokens[tokens < len(logits)]] = -np.inf
    return out


def only(logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Exclude all tokens but these."""
    tokens = tokens[tokens < len(logits)]
    out = np.full(len(logits), -np.inf)
    out[tokens] = logits[tokens]
    return out


def guide(logits: np.ndarray, negative: np.ndarray, scale: float) -> np.ndarray:
    """Move the distribution away from the one that follows a negative prompt (classifier-free guidance).

    l_i -> scale * ln p_i + (1 - scale) * ln q_i, with p the probabilities of logits and q of negative. A token that
    either excludes stays excluded.

    >>> np.exp(guide(np.log([0.5, 0.5]), np.log([0.8, 0.2]), 2.0)).round(4)  # p * p / q
    array([0.3125, 1.25  ])

    Source: Sanchez et al., "Stay on topic with Classifier-Free Guidance", arXiv:2306.17806.
    """
    logp, logq = log_softmax(logits), log_softmax(negative)
    possible = (logp > -np.inf) & (logq > -np.inf)
    out = np.full(len(logits), -np.inf)
    out[possible] = scale * (logp[possible] - logq[possible]) + logq[possible]
    return out


def add_bias(logits: np.ndarray, bias: Mapping[int, float]) -> np.ndarray:
    """Add to the logits of some tokens.

    l_i -> l_i + bias_i

    >>> add_bias(np.array([1.0, 2.0]), {0: 0.5, 1: -np.inf})
    array([ 1.5, -inf])

    Source: OpenAI's API reference, logit_bias.
    """
    out = logits.copy()
    for i, value in bias.items():
        out[i] += value
    return out


def exclude_sequences(ids: np.ndarray, logits: np.ndarray, sequences: Sequence[Sequence[int]]) -> np.ndarray:
    """Exclude the last token of each sequence of ids whose other tokens are the last ones of ids.

    >>> exclude_sequences(np.array([7, 1]), np.zeros(4), [(1, 2), (2, 3), (0,)])
    array([-inf,   0., -inf,   0.])

    Source: transformers, NoBadWordsLogitsProcessor (which lets end tokens through).
    """
    last = ids[max(0, len(ids) + 1 - max(map(len, sequences))) :].tolist()
    done = [seq[-1] for seq in sequences if len(seq) == 1 or last[1 - len(seq) :] == list(seq[:-1])]
    return without(logits, done)


def exclude_words(ids: np.ndarray, logits: np.ndarray, words: Words) -> np.ndarray:
    """Exclude the tokens that would complete a banned word, by its bytes, however the text is cut into tokens.

    A word that began in the prompt counts too. It is found inside other words: "art" is in "party".

    >>> from npgpt.generation.rules.spelling import spelling_of
    >>> from npgpt.tokenizer import CharTokenizer
    >>> tokenizer = CharTokenizer(["abc"])
    >>> exclude_words(np.array([0, 1]), np.zeros(3), Words(["abc", "bb"], spelling_of(tokenizer), ends=()))
    array([  0., -inf, -inf])
    """
    return without(logits, words.completed_by(ids))


def exclude_ends(ids: np.ndarray, logits: np.ndarray, ends: Sequence[int], length: int) -> np.ndarray:
    """Exclude the tokens that end a text until it has `length` tokens, those of the prompt included.

    >>> exclude_ends(np.array([1, 2]), np.zeros(3), [0], 3), exclude_ends(np.array([1, 2, 1]), np.zeros(3), [0], 3)
    (array([-inf,   0.,   0.]), array([0., 0., 0.]))

    Source: transformers, MinNewTokensLengthLogitsProcessor.
    """
    return logits if len(ids) >= length else without(logits, list(ends))


def force_ids(written: np.ndarray, logits: np.ndarray, prefix: Sequence[int]) -> np.ndarray:
    """Exclude all tokens but the next one of a prefix. `written` holds the ids after the prompt.

    >>> force_ids(np.array([2]), np.zeros(3), (2, 0)), force_ids(np.array([2, 0]), np.zeros(3), (2, 0))
    (array([  0., -inf, -inf]), array([0., 0., 0.]))
    """
    return logits if len(written) >= len(prefix) else only(logits, np.array([prefix[len(written)]]))


def force_text(
    written: np.ndarray, logits: np.ndarray, prefix: bytes, spelling: Spelling, ends: Sequence[int]
) -> np.ndarray:
    """Exclude all tokens with which the text could not begin with a prefix. `written` holds the ids after the prompt.

    Any tokens that spell the prefix can be drawn, and the one that completes it may go on after it, so that a prefix
    may end in the middle of a word. The model chooses among them.

    >>> from npgpt.generation.rules.spelling import spelling_of
    >>> from npgpt.tokenizer import ByteTokenizer
    >>> logits = force_text(np.array([*b"a"]), np.zeros(256), b"abc", spelling_of(ByteTokenizer()), ends=())
    >>> np.flatnonzero(logits == 0) == ord("b")
    array([ True])
    """
    done = b"".join(spelling.pieces(written[: len(prefix)].tolist()))  # no token that is drawn here is empty
    if done.startswith(prefix):
        return logits
    if not prefix.startswith(done):
        return np.full(len(logits), -np.inf)
    return without(only(logits, spelling.leading_to(prefix[len(done) :])), list(ends))
