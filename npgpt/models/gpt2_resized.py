"""A trained GPT for more tokens, or for another context: new rows of its tables, from the rows that it has."""

import numpy as np

from npgpt.config import GPTConfig
from npgpt.models.gpt2_parameters import zero_parameters
from npgpt.support.parameters import Parameters

TABLES = ("wte.weight", "lm_head.weight")  # with a row for each token


def resized(params: Parameters, config: GPTConfig, known: np.ndarray, new: np.ndarray) -> Parameters:
    """Return a GPT's parameters in a new buffer, for the vocab_size and n_positions of `config`; all else is the same.

    known  the ids of tokens that the model has learned
    new    the ids of tokens that it has not, whether it has rows for them or not
    """
    found = zero_parameters(config, str(params.flat.dtype))
    for name, array in params.items():
        if name in TABLES:
            found[name] = with_tokens(array, config.vocab_size, known, new)
        elif name == "wpe.weight":
            found[name] = with_positions(array, config.n_positions)
        else:
            found[name] = array
    return found


def with_tokens(table: np.ndarray, size: int, known: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Return a table (V, C) with `size` rows, at least V, in which new tokens have the mean of the known ones.

    A new token is then about as likely as a known one, so that its row does not disturb what the model has learned.

    Example: the rows [1], [3] of known tokens and a new token 2 give [1], [3], [2].

    Source: Hewitt, "Initializing New Word Embeddings for Pretrained Language Models" (2021).
    """
    found = np.zeros((size, table.shape[1]), table.dtype)
    found[: len(table)] = table
    mean = table[known].mean(axis=0, dtype=np.float64)
    found[new] = mean
    found[len(table) :] = mean  # rows that no token has, if any
    return found


def with_positions(table: np.ndarray, n_positions: int) -> np.ndarray:
    """Return a table of positions (T, C) for another context: its first rows, or T rows spread over more positions.

    Row i of a longer table lies at i (T - 1) / (n_positions - 1) of the old one, between two of its rows.

    Example: the rows [0], [4] for 3 positions give [0], [2], [4].

    Sources: Chen et al., "Extending Context Window of Large Language Models via Positional Interpolation",
    arXiv:2306.15595; of learned tables, Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv:2010.11929,
    section 3.2.
    """
    T = len(table)
    if n_positions <= T:
        return table[:n_positions]
    where = np.linspace(0, T - 1, n_positions)
    below = np.minimum(where.astype(np.int64), max(0, T - 2))
    share = (where - below)[:, None]
    above = np.minimum(below + 1, T - 1)
    return ((1 - share) * table[below] + share * table[above]).astype(table.dtype)
