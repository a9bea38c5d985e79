"""The similarity loss of a generator: how far what it would write is, to a GPT that reads both, from what was wanted.

What is written is discrete and has no gradient. So the critic reads expected embeddings instead, the average of its
tokens' embeddings under the generator's softmax, and the gradient flows back through the critic's input.
"""

from typing import Any, NamedTuple

import numpy as np

from npgpt.layers.distributions import checked_temperature, in_place
from npgpt.layers.lengths import real_positions
from npgpt.models.gpt2 import GPT, FeaturesCache, features_backward, features_forward
from npgpt.models.gpt2_parameters import Discarded
from npgpt.ops import Ops


class SimilarityCache(NamedTuple):
    """What similarity_backward needs; probs (M, V) and embeds (M, C) are those of the M positions that count."""

    ops: Ops
    real: np.ndarray
    probs: np.ndarray
    embeds: np.ndarray
    wte: np.ndarray
    features: FeaturesCache
    pooled: Any
    angle: Any
    share: np.ndarray
    tau: float


def similarity_forward(
    logits: np.ndarray, ids: np.ndarray, lengths: np.ndarray, critic: GPT, tau: float = 1.0
) -> tuple[np.ndarray, SimilarityCache]:
    """Average `1 - cos(f(e), f(w))` over the examples, each weighted by its positions.

    e_t = softmax(logits_t / tau) @ wte are the critic's embeddings as the generator expects them, w = wte[ids] those of
    the wanted tokens, and f is the mean of the critic's features, after its final layer norm, over the positions.

    logits   (N, T, V): logits_t are those of the token ids_t
    ids      (N, T) the wanted tokens; what stands beyond a length does not matter
    lengths  (N,) how many positions each example has. One of length 0 does not count
    critic   a GPT of the same vocabulary, in the dtype of logits, whose weights are constants
    tau      the temperature: the lower, the closer the expected embeddings are to those of the likeliest tokens
    loss     a scalar in the dtype of logits, from 0 to 2; 0 if no example counts

    Raises ValueError for a tau that is not positive, for shapes that do not fit, and for more positions than the critic
    has.
    """
    N, T, V = logits.shape
    tau = checked_temperature(tau)
    ops, wte = critic.ops, critic.params["wte.weight"]
    if ids.shape != (N, T) or len(wte) != V:
        raise ValueError(f"logits {logits.shape} must be those of ids {ids.shape}, of the critic's {len(wte)} tokens")
    real = real_positions(lengths, N, T)
    if (ids[real] < 0).any():
        raise ValueError("the cosine compares whole completions, and one has a token that does not count")
    probs = logits[real] / tau
    probs -= probs.max(axis=-1, keepdims=True)
    np.exp(probs, out=probs)
    probs /= probs.sum(axis=-1, keepdims=True)
    embeds = probs @ wte
    inputs = np.zeros((N, T, wte.shape[1]), embeds.dtype)
    inputs[real] = embeds
    wanted, _ = ops.pool_forward(critic.features(np.where(real, ids, 0)), "mean", lengths)
    hidden, features = features_forward(critic.params, None, critic.config, ops, inputs_embeds=inputs)
    found, pooled = ops.pool_forward(hidden, "mean", lengths)
    cosine, angle = ops.cosine_forward(found, wanted)
    # by positions, as threads and accumulation weight the parts of a batch
    share = (lengths / max(int(lengths.sum()), 1)).astype(logits.dtype)
    loss = (share * (1 - cosine)).sum()
    return loss, SimilarityCache(ops, real, probs, embeds, wte, features, pooled, angle, share, tau)


def similarity_backward(dout: np.ndarray | float, cache: SimilarityCache) -> np.ndarray:
    """Return dlogits (N, T, V), exactly 0 beyond the lengths.

    dout  the scalar gradient of the loss
    """
    ops, probs, real = cache.ops, cache.probs, cache.real
    # loss = (share * (1 - cosine)).sum(), and what was wanted is constant
    dfound, _ = ops.cosine_backward(-probs.dtype.type(dout) * cache.share, cache.angle)
    dhidden = ops.pool_backward(dfound, cache.pooled)
    dinputs = features_backward(dhidden, cache.features, Discarded(), blocks=0)
    assert dinputs is not None  # the critic has read embeddings
    dembeds = dinputs[real]
    # embeds = probs @ wte
    dz = dembeds @ cache.wte.T
    # probs = softmax(z): dz = probs * (dprobs - (dprobs * probs).sum()), and that sum is dembeds . embeds
    dz -= (dembeds * cache.embeds).sum(axis=-1, keepdims=True)
    dz *= probs
    # z = logits / tau
    dz /= cache.tau
    return in_place(dz, np.flatnonzero(real), (*real.shape, len(cache.wte)))
