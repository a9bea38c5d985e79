"""What loss to expect of a run that follows the recipe, from its size, the tokens that it sees and counts of its text.

traits = count_traits(train_ids, vocab_size)
expected_loss(traits, n_parameters=790_000, tokens_seen=1_000_000).loss

docs/recipes.md says which runs the constants are fitted to, and how far they are off texts left out of the fit.
"""

import math
from typing import Any, NamedTuple

import numpy as np

SAMPLE, FEWEST, PIECES = 2**17, 200, 32
LONGEST = 5  # tokens before, of the counting models
NEAR, MATCHES = 256, (1, 2, 3, 4, 6, 8)  # how far back, and how many tokens, may be matched


class Traits(NamedTuple):
    """What can be counted in a text before a model is trained on it; losses are in nats per token, of held-out tokens.

    tokens      U, the tokens to train on
    vocab_size  V
    unigram     the loss of the tokens' frequencies
    bigram      the loss of counting which tokens follow one token
    counted     the loss of counting which tokens follow up to five, mixed with copying from the last 256 tokens
    quarter     the same, counted in a quarter of the sample: how much more text would help
    """

    tokens: int
    vocab_size: int
    unigram: float
    bigram: float
    counted: float
    quarter: float


class Expected(NamedTuple):
    """A validation loss in nats per token, and the range that 80 of 100 runs on texts left out of the fit fell into."""

    loss: float
    low: float
    high: float


class Constants(NamedTuple):
    """The constants of loss_by; each is positive."""

    e: float
    k: float
    a: float
    alpha: float
    b: float
    beta: float
    r: float
    o: float
    gamma: float


FITTED = Constants(e=0.5569, k=12.28, a=0.0464, alpha=0.3208, b=0.2163, beta=0.2554, r=6.171, o=0.00125, gamma=0.7703)
OFF_OUTSIDE = 0.2129  # how far log(measured / expected) may be off for 80 of 100 runs on texts left out


def count_traits(ids: np.ndarray, vocab_size: int, held: np.ndarray | None = None) -> Traits:
    """Count a text's traits on a sample of at most 2^17 tokens.

    ids   (U,): the tokens to train on, integers below vocab_size; may be mapped from a file
    held  the tokens to validate with; None holds out the last tenth of ids

    The sample is spread over the text, so this takes less than a second for any size. Raises ValueError for fewer than
    FEWEST tokens.
    """
    if len(ids) < FEWEST:
        raise ValueError(f"a text of {len(ids)} tokens is too short to be counted: give at least {FEWEST}")
    known = ids
    if held is None:
        known, held = np.split(ids, [len(ids) - len(ids) // 10])
    seen, held = _spread(known, SAMPLE * 9 // 10), _spread(held, SAMPLE // 10)
    quarter = np.concatenate([piece[: len(piece) // 4] for piece in np.array_split(seen, PIECES)])
    whole, part = (counting_probs(counted, held, vocab_size) for counted in (seen, quarter))
    counted, less = (_loss(with_copying(held, min(probs, key=_loss))) for probs in (whole, part))
    return Traits(len(ids), vocab_size, _loss(whole[0]), _loss(whole[1]), counted, less)


def _loss(probs: np.ndarray) -> float:
    return max(1e-3, float(-np.log(probs).mean()))  # never 0, so that losses can be divided


def counting_probs(seen: np.ndarray, held: np.ndarray, vocab_size: int) -> list[np.ndarray]:
    """Return the probability of each token of `held`, by counting in `seen` what follows 0, 1, ... LONGEST tokens.

        p_k(x | c) = (max(n(c x) - d, 0) + d m(c) p_{k-1}(x | c)) / n(c),   d = 0.75, p_{-1} = 1 / vocab_size

    with n(c x) how often x follows the context c, and m(c) how many different tokens do. A context that was not seen
    leaves the probability of the shorter one.

    Source: Ney, Essen and Kneser, "On structuring probabilistic dependences in stochastic language modelling", 1994.
    """
    ids = np.concatenate([seen, held]).astype(np.uint64)
    n, found = len(seen), []
    before = np.zeros(len(ids), np.uint64)  # a number for each context, equal for equal ones
    probs = np.full(len(held), 1 / vocab_size)
    for order in range(LONGEST + 1):
        if order:
            before = _mixed(before, _shifted(ids, order))
        context = np.unique(before, return_inverse=True)[1]
        event = np.unique(_mixed(before, ids), return_inverse=True)[1]
        context_of = np.zeros(event.max() + 1, np.int64)
        context_of[event] = context
        counts = np.bincount(event[:n], minlength=len(context_of))
        totals = np.bincount(context[:n], minlength=context.max() + 1)
        kinds = np.bincount(context_of[counts > 0], minlength=len(totals))
        c, total = context[n:], totals[context[n:]]
        longer = (np.maximum(counts[event[n:]] - 0.75, 0) + 0.75 * kinds[c] * probs) / np.maximum(total, 1)
        probs = np.where(total > 0, longer, probs)
        found.append(probs)
    return found


def with_copying(ids: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Return the probabilities of tokens, mixed with the guess that what followed the same tokens follows again.

    The guess is what came after the latest of the last NEAR places that match the longest of MATCHES tokens. Its weight
    for each length of match is the one that suits these tokens best: six numbers, found by expectation maximisation.

    Source: Mahoney, "Adaptive weighing of context models for lossless data compression", 2005, for the match model.
    """
    ids = ids.astype(np.uint64)
    places = np.arange(len(ids))
    before = np.zeros(len(ids), np.uint64)
    length, right = np.zeros(len(ids), int), np.zeros(len(ids), bool)
    for n in range(1, max(MATCHES) + 1):
        before = _mixed(before, _shifted(ids, n))
        if n in MATCHES:
            order = np.argsort(before, kind="stable")
            same = before[order][1:] == before[order][:-1]
            latest = np.full(len(ids), -NEAR - 1)
            latest[order[1:][same]] = order[:-1][same]
            hit = places - latest <= NEAR
            length[hit], right[hit] = n, ids[hit] == ids[latest[hit]]
    mixed = probs.copy()
    for n in MATCHES:
        p, guess, weight = probs[length == n], right[length == n], 0.5
        for _ in range(10 if len(p) else 0):
            weight = float(np.mean(weight * guess / ((1 - weight) * p + weight * guess)))
        mixed[length == n] = (1 - weight) * p + weight * guess
    return mixed


def _spread(ids: np.ndarray, most: int) -> np.ndarray:
    """Return the ids, or if there are more than `most`, some pieces of them, evenly spread."""
    if len(ids) <= most:
        return np.asarray(ids)
    size = most // PIECES
    starts = np.linspace(0, len(ids) - size, PIECES).astype(int)
    return np.concatenate([ids[start : start + size] for start in starts])


def _shifted(ids: np.ndarray, by: int) -> np.ndarray:
    """Return the token that stands `by` places before each one, and 0 before the beginning."""
    return np.concatenate([np.zeros(by, np.uint64), ids])[: len(ids)]


def _mixed(numbers: np.ndarray, more: np.ndarray) -> np.ndarray:
    """Return a 64-bit number for each pair, equal for equal pairs and almost surely different for different ones."""
    mixed = (numbers ^ (more + np.uint64(1))) * np.uint64(0x9E3779B97F4A7C15)
    return mixed ^ (mixed >> np.uint64(29))


def expected_loss(traits: Traits, n_parameters: int, tokens_seen: int) -> Expected:
    """Return the validation loss to expect at the end of a run that follows the recipe, and its range.

    n_parameters  N, of the blocks: 12 n_layer n_embd^2, without embeddings, head, biases and norms
    tokens_seen   D, batch size times context times steps; more than traits.tokens if the text is repeated

    The loss rises again where a text is repeated so often that the model overfits, so the best D can be searched for.
    It is never above log(vocab_size), which a model that knows nothing would have.
    Raises ValueError for numbers that are not positive.
    """
    if n_parameters <= 0 or tokens_seen <= 0:
        raise ValueError(f"n_parameters={n_parameters} and tokens_seen={tokens_seen} must be positive")
    guess = math.log(max(2, traits.vocab_size))  # what a model loses that knows nothing
    loss = min(guess, float(loss_by(FITTED, traits, n_parameters, tokens_seen)))
    return Expected(loss, loss * math.exp(-OFF_OUTSIDE), max(loss, min(guess, loss * math.exp(OFF_OUTSIDE))))


def loss_by(c: Constants, traits: Any, n_parameters: Any, tokens_seen: Any) -> Any:
    """Return the loss that some constants give; all arguments may be arrays of one shape.

        D_eff = D for the first pass, then U (1 + r (1 - exp(-(D / U - 1) / r)))        repeated tokens count less
        L = S (e + a N^-alpha) + bigram b D_eff^-beta + unigram o (N / U)^gamma log(max(1, D / U))^3
        S = counted exp(-k log(counted / quarter)^2)        less where counting more text would help more

    N, D_eff in millions where they stand alone. The last term is what overfitting costs.

    Sources: Hoffmann et al., "Training Compute-Optimal Large Language Models", arXiv:2203.15556, for the sum;
    Muennighoff et al., "Scaling Data-Constrained Language Models", arXiv:2305.16264, for D_eff.
    """
    passes = tokens_seen / traits.tokens
    again = np.maximum(passes - 1, 0)
    new = traits.tokens * (np.minimum(passes, 1) + c.r * (1 - np.exp(-again / c.r)))
    scale = traits.counted * np.exp(-c.k * np.log(traits.counted / traits.quarter) ** 2)
    possible = scale * (c.e + c.a * (n_parameters / 1e6) ** -c.alpha)
    unlearned = traits.bigram * c.b * (new / 1e6) ** -c.beta
    overfit = c.o * (n_parameters / traits.tokens) ** c.gamma * np.log(np.maximum(passes, 1)) ** 3
    return possible + unlearned + traits.unigram * overfit
