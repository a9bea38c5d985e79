"""Generation: one token after another, with the keys and values of earlier tokens kept.

Each rule that shapes the distribution is a small function from logits (V,) to logits (V,); -inf rules a token out.
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np

from npgpt.model import GPT, pair


def generate(
    model: GPT,
    ids: Iterable[int],
    max_new_tokens: int = 100,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | np.random.Generator = 0,
    vocab_size: int | None = None,
    stop: int | None = None,
) -> Iterator[int]:
    """Yield the tokens that follow ids, each as soon as it is drawn.

    ids          the prompt, at least one token; of a longer one than n_positions the end is seen. The context slides
                 when it is full
    temperature  divides the logits; 0 takes the likeliest token
    top_k        draw from the k likeliest alone; top_p from the fewest whose probability is at least p
    seed         of the draws, or a generator
    vocab_size   draw from the first that many tokens, where the model's vocabulary is padded
    stop         the token after which the text ends; the model's eos_token_id if it is not given

    Raises ValueError for arguments outside these ranges, before the first token, and for logits that are NaN.
    """
    context = [int(i) for i in ids]
    size = model.config.vocab_size if vocab_size is None else vocab_size
    if not context:
        raise ValueError("the prompt is empty: give at least one token to go on from")
    if not all(0 <= i < model.config.vocab_size for i in context):
        raise ValueError(f"the prompt has ids outside the vocabulary of {model.config.vocab_size}")
    if not 1 <= size <= model.config.vocab_size:
        raise ValueError(f"vocab_size={size} must be in 1..{model.config.vocab_size}")
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 0")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature={temperature} must be a number of at least 0")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k} must be at least 1")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p} must be in (0, 1]")
    return _generate(model, context, max_new_tokens, temperature, top_k, top_p, seed, size, stop)


def _generate(
    model: GPT,
    context: list[int],
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int | np.random.Generator,
    size: int,
    stop: int | None,
) -> Iterator[int]:
    rng = np.random.default_rng(seed)
    stop = model.config.eos_token_id if stop is None else stop
    n_positions = model.config.n_positions
    context = context[-n_positions:]
    cache = KVCache(model)
    for _ in range(max_new_tokens):
        if len(context) > n_positions:
            # the positions are learned: when the window slides every token gets another one, and all keys change
            context, cache = context[-n_positions:], KVCache(model)
        logits = cache.advance(context[cache.length :])[:size].astype(np.float64)
        if np.isnan(logits).any():
            raise ValueError("the model's logits are NaN: its weights are damaged, or training went astray")
        logits = apply_temperature(logits, temperature)
        if top_k is not None:
            logits = keep_top_k(logits, top_k)
        if top_p is not None:
            logits = keep_top_p(logits, top_p)
        token = draw(logits, rng)
        yield token
        if token == stop:
            return
        context.append(token)


def apply_temperature(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Divide the logits; temperature 0 leaves the likeliest token alone, the first of several."""
    if temperature == 0:
        return np.where(np.arange(len(logits)) == logits.argmax(), 0.0, -np.inf)
    with np.errstate(over="ignore"):  # -inf, a token that is ruled out
        return (logits - logits.max()) / temperature


def keep_top_k(logits: np.ndarray, k: int) -> np.ndarray:
    """Rule out all but the k likeliest tokens, the first ones among equals."""
    kept = np.argsort(-logits, kind="stable")[:k]
    out = np.full_like(logits, -np.inf)
    out[kept] = logits[kept]
    return out


def keep_top_p(logits: np.ndarray, p: float) -> np.ndarray:
    """Rule out all but the fewest likeliest tokens whose probabilities sum to at least p.

    Source: Holtzman et al., "The Curious Case of Neural Text Degeneration", arXiv:1904.09751.
    """
    order = np.argsort(-logits, kind="stable")
    before = np.cumsum(softmax(logits)[order])
    before = np.concatenate(([0.0], before[:-1]))  # the probability of all likelier tokens
    return keep_top_k(logits, int((before < p).sum()))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of logits (V,)."""
    exp = np.exp(logits - logits.max())
    return exp / exp.sum()


def draw(logits: np.ndarray, rng: np.random.Generator) -> int:
    """Draw a token from the distribution of logits."""
    return int(rng.choice(len(logits), p=softmax(logits)))


class KVCache:
    """The keys and values of the tokens seen so far, so that each new token costs one position, not all."""

    def __init__(self, model: GPT) -> None:
        config = model.config
        H, D = config.n_head, config.n_embd // config.n_head
        self.model = model
        self.length = 0
        self.keys = np.empty((config.n_layer, H, config.n_positions, D), model.dtype)
        self.values = np.empty_like(self.keys)

    def advance(self, ids: list[int]) -> np.ndarray:
        """Take the next tokens in and return the logits after the last of them, (V,).

        The blocks of model.py without dropout and backward, the queries being the new tokens alone.
        """
        ops, params, config = self.model.ops, self.model.params, self.model.config
        eps, start, stop = config.layer_norm_epsilon, self.length, self.length + len(ids)
        positions = np.arange(start, stop)
        x = params["wte.weight"][ids] + params["wpe.weight"][positions]
        for i in range(config.n_layer):
            h = f"h.{i}"
            y, _ = ops.layernorm_forward(x, *pair(params, f"{h}.ln_1"), eps)
            qkv, _ = ops.linear_forward(y, *pair(params, f"{h}.attn.c_attn"))
            y, _ = ops.linear_forward(self._attend(i, qkv), *pair(params, f"{h}.attn.c_proj"))
            x = x + y
            y, _ = ops.layernorm_forward(x, *pair(params, f"{h}.ln_2"), eps)
            c_fc, c_proj = pair(params, f"{h}.mlp.c_fc"), pair(params, f"{h}.mlp.c_proj")
            y, _ = ops.mlp_forward(y, *c_fc, *c_proj, config.activation_function)
            x = x + y
        self.length = stop
        hidden, _ = ops.layernorm_forward(x[-1:], *pair(params, "ln_f"), eps)
        head = params["wte.weight" if config.tie_word_embeddings else "lm_head.weight"]
        logits, _ = ops.linear_forward(hidden, head.T, None)
        return logits[0]

    def _attend(self, layer: int, qkv: np.ndarray) -> np.ndarray:
        """Attend from the new tokens, qkv (T, 3C), to all tokens so far: (T, C)."""
        keys, values = self.keys[layer], self.values[layer]
        H, _, D = keys.shape
        T, stop = len(qkv), self.length + len(qkv)
        q, k, v = qkv.reshape(T, 3, H, D).transpose(1, 2, 0, 3)  # each (H, T, D)
        keys[:, self.length : stop], values[:, self.length : stop] = k, v
        scores = q @ keys[:, :stop].swapaxes(-1, -2) / math.sqrt(D)
        probs, _ = self.model.ops.causal_softmax_forward(scores)
        heads = probs @ values[:, :stop]
        return heads.transpose(1, 0, 2).reshape(T, H * D)
