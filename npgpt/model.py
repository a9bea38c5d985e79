"""The GPT: gpt_forward, gpt_backward (its mirror image), and a thin class over them.

Pre-norm blocks on a residual stream, as in GPT-2: `x + attention(layernorm(x))`, then `x + mlp(layernorm(x))`.
"""

from pathlib import Path
from typing import Any

import numpy as np

from npgpt.config import GPTConfig
from npgpt.ops import REFERENCE, Ops, get_ops
from npgpt.parameters import Parameters, init_parameters

Rng = np.random.Generator | None
Starts = np.ndarray | None  # (B, T): where in its row each position's own text begins; None where that is 0


def pair(params: Parameters, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a layer's weight and bias, or the places of their gradients; the bias is None where the model has none."""
    return params[f"{name}.weight"], params.get(f"{name}.bias")


def block_forward(
    x: np.ndarray, params: Parameters, h: str, config: GPTConfig, ops: Ops, rng: Rng, starts: Starts = None
) -> tuple[np.ndarray, tuple]:
    """Run block `h` ("h.0", "h.1", ...): x (B, T, C) -> (B, T, C)."""
    eps, p = config.layer_norm_epsilon, config.resid_pdrop
    y, ln_1 = ops.layernorm_forward(x, *pair(params, f"{h}.ln_1"), eps)
    qkv, c_attn = ops.linear_forward(y, *pair(params, f"{h}.attn.c_attn"))
    y, attn = ops.attention_forward(qkv, config.n_head, config.attn_pdrop, rng, starts)
    y, c_proj = ops.linear_forward(y, *pair(params, f"{h}.attn.c_proj"))
    y, drop_1 = ops.dropout_forward(y, p, rng)
    y += x  # x = x + y, in y's memory: y is new, and nobody else has it
    x = y
    y, ln_2 = ops.layernorm_forward(x, *pair(params, f"{h}.ln_2"), eps)
    c_fc, c_mlp_proj = pair(params, f"{h}.mlp.c_fc"), pair(params, f"{h}.mlp.c_proj")
    y, mlp = ops.mlp_forward(y, *c_fc, *c_mlp_proj, config.activation_function)
    y, drop_2 = ops.dropout_forward(y, p, rng)
    y += x
    x = y
    return x, (h, ops, ln_1, c_attn, attn, c_proj, drop_1, ln_2, mlp, drop_2)


def block_backward(dx: np.ndarray, cache: tuple, grads: Parameters) -> np.ndarray:
    """Return dx (B, T, C) at the block's input; the gradients of its parameters go into grads."""
    h, ops, ln_1, c_attn, attn, c_proj, drop_1, ln_2, mlp, drop_2 = cache
    # x = x + y: the residual stream carries dx past the branch, and the branch adds its own
    dy = ops.dropout_backward(dx, drop_2)
    dy, *_ = ops.mlp_backward(dy, mlp, *pair(grads, f"{h}.mlp.c_fc"), *pair(grads, f"{h}.mlp.c_proj"))
    dy, *_ = ops.layernorm_backward(dy, ln_2, *pair(grads, f"{h}.ln_2"))
    dy += dx  # dx = dx + dy, in dy's memory
    dx = dy
    dy = ops.dropout_backward(dx, drop_1)
    dy, *_ = ops.linear_backward(dy, c_proj, *pair(grads, f"{h}.attn.c_proj"))
    dqkv = ops.attention_backward(dy, attn)
    dy, *_ = ops.linear_backward(dqkv, c_attn, *pair(grads, f"{h}.attn.c_attn"))
    dy, *_ = ops.layernorm_backward(dy, ln_1, *pair(grads, f"{h}.ln_1"))
    dy += dx
    dx = dy
    return dx


def features_forward(
    params: Parameters,
    ids: np.ndarray,
    config: GPTConfig,
    ops: Ops = REFERENCE,
    rng: Rng = None,
    starts: Starts = None,
) -> tuple[np.ndarray, tuple]:
    """Run everything below the head: ids (B, T) -> hidden (B, T, C), after the final layer norm.

    starts  (B, T), where several texts lie behind one another in a row: where each position's own text begins.
            Positions count from there, and nothing before it is seen: each text is computed as if it were alone
    """
    tokens, wte = ops.embedding_forward(ids, params["wte.weight"])
    where = np.arange(ids.shape[1]) - (0 if starts is None else starts)
    positions, wpe = ops.embedding_forward(where, params["wpe.weight"])
    tokens += positions
    x, drop = ops.dropout_forward(tokens, config.embd_pdrop, rng)
    blocks = []
    for i in range(config.n_layer):
        x, block = block_forward(x, params, f"h.{i}", config, ops, rng, starts)
        blocks.append(block)
    hidden, ln_f = ops.layernorm_forward(x, *pair(params, "ln_f"), config.layer_norm_epsilon)
    return hidden, (ops, starts, wte, wpe, drop, blocks, ln_f)


def features_backward(dhidden: np.ndarray, cache: tuple, grads: Parameters) -> None:
    """Put the gradients of every parameter below the head into grads; that of wte is added to what is there."""
    ops, starts, wte, wpe, drop, blocks, ln_f = cache
    dx, *_ = ops.layernorm_backward(dhidden, ln_f, *pair(grads, "ln_f"))
    for block in reversed(blocks):
        dx = block_backward(dx, block, grads)
    dx = ops.dropout_backward(dx, drop)
    # x = tokens + positions: positions that are the same in all rows were broadcast, so their gradient is summed
    grads["wpe.weight"].fill(0)
    ops.embedding_backward(dx.sum(axis=0) if starts is None else dx, wpe, grads["wpe.weight"])
    ops.embedding_backward(dx, wte, grads["wte.weight"])


def head_name(config: GPTConfig) -> str:
    """Return the name of the head's weight (V, C): the token embedding, where they are tied."""
    return "wte.weight" if config.tie_word_embeddings else "lm_head.weight"


def gpt_forward(
    params: Parameters,
    ids: np.ndarray,
    config: GPTConfig,
    ops: Ops = REFERENCE,
    rng: Rng = None,
    starts: Starts = None,
) -> tuple[np.ndarray, tuple]:
    """Run the model: ids (B, T) -> logits (B, T, V). rng draws the dropout masks; None switches dropout off."""
    hidden, features = features_forward(params, ids, config, ops, rng, starts)
    logits, head = ops.linear_forward(hidden, params[head_name(config)].T, None)
    return logits, (params, config, ops, features, head)


def gpt_backward(dlogits: np.ndarray, cache: tuple, grads: Parameters | None = None) -> Parameters:
    """Return the gradients of every parameter, the mirror of params: same names and shapes, in one buffer."""
    params, config, ops, features, head = cache
    grads = params.empty_like() if grads is None else grads
    dhidden, dhead_t, _ = ops.linear_backward(dlogits, head)
    # logits = hidden @ head.T; a tied embedding was used at both ends, and the two gradients add up
    grads["wte.weight"].fill(0)
    grads[head_name(config)] = dhead_t.T
    features_backward(dhidden, features, grads)
    return grads


def loss_forward(
    params: Parameters,
    ids: np.ndarray,
    targets: np.ndarray,
    config: GPTConfig,
    ops: Ops = REFERENCE,
    rng: Rng = None,
    starts: Starts = None,
) -> tuple[np.ndarray, tuple]:
    """Run the model up to its loss: ids and targets (B, T) -> a scalar, in nats. The logits are not kept."""
    hidden, features = features_forward(params, ids, config, ops, rng, starts)
    loss, head = ops.linear_cross_entropy_forward(hidden, params[head_name(config)], targets)
    return loss, (params, config, ops, features, head)


def loss_backward(dloss: np.ndarray | float, cache: tuple, grads: Parameters | None = None) -> Parameters:
    """Return the gradients of every parameter, as gpt_backward does."""
    params, config, ops, features, head = cache
    grads = params.empty_like() if grads is None else grads
    if not config.tie_word_embeddings:
        grads["wte.weight"].fill(0)
    dhidden, _ = ops.linear_cross_entropy_backward(dloss, head, grads[head_name(config)])
    features_backward(dhidden, features, grads)
    return grads


class GPT:
    """A GPT-2: a config, its parameters, and a table of ops.

    >>> model = GPT(GPTConfig(vocab_size=65, n_positions=64, n_embd=128, n_layer=4, n_head=4), seed=0)
    >>> loss, grads = model.loss_and_grads(ids, targets)

    ids and targets are integers of shape (B, T), T at most n_positions. So are starts, which are needed only where
    several texts lie behind one another in a row: for each position, where in its row its own text begins. Each text is
    then computed as if it were alone. A method raises ValueError for ids of another shape or outside the vocabulary and
    for starts that are no position up to their own, TypeError for what are not integers.
    """

    def __init__(
        self,
        config: GPTConfig,
        seed: int = 0,
        dtype: str = "float32",
        ops: str | Ops = "fast",
        params: Parameters | None = None,
    ) -> None:
        self.config = config
        self.ops = get_ops(ops)
        self.params = init_parameters(config, seed, dtype) if params is None else params

    @property
    def dtype(self) -> np.dtype:
        return self.params.flat.dtype

    def features(self, ids: np.ndarray, starts: Starts = None) -> np.ndarray:
        """Return the hidden states after the final layer norm, (B, T, C)."""
        ids, starts = self._checked(ids), self._starts(ids, starts)
        return features_forward(self.params, ids, self.config, self.ops, starts=starts)[0]

    def logits(self, ids: np.ndarray, starts: Starts = None) -> np.ndarray:
        """Return the next token's unnormalised log-probabilities at every position, (B, T, V)."""
        ids, starts = self._checked(ids), self._starts(ids, starts)
        return gpt_forward(self.params, ids, self.config, self.ops, starts=starts)[0]

    def loss(self, ids: np.ndarray, targets: np.ndarray, starts: Starts = None) -> float:
        """Return the mean cross-entropy in nats over the targets that are not -100."""
        ids, targets, starts = self._checked(ids), self._targets(ids, targets), self._starts(ids, starts)
        return float(loss_forward(self.params, ids, targets, self.config, self.ops, starts=starts)[0])

    def loss_and_grads(
        self,
        ids: np.ndarray,
        targets: np.ndarray,
        rng: Rng = None,
        dloss: float = 1.0,
        grads: Parameters | None = None,
        starts: Starts = None,
    ) -> tuple[float, Parameters]:
        """Return the mean cross-entropy in nats over the targets that are not -100, and every parameter's gradient.

        rng    switches dropout on and draws its masks
        dloss  the gradients are those of dloss * loss: a part of a batch passes its share of the counted targets
        grads  written to and returned, instead of new ones
        """
        ids, targets, starts = self._checked(ids), self._targets(ids, targets), self._starts(ids, starts)
        loss, cache = loss_forward(self.params, ids, targets, self.config, self.ops, rng, starts)
        return float(loss), loss_backward(dloss, cache, grads)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, generation_config.json and model.safetensors, as `transformers` reads them."""
        from npgpt.pretrained import save_model

        save_model(self, Path(folder))

    @classmethod
    def from_pretrained(cls, name: str | Path, dtype: str = "float32", ops: str | Ops = "fast") -> "GPT":
        """Read a GPT-2 from a folder, or by its name on the Hugging Face hub (with the `hub` extra).

        Raises FileNotFoundError or ValueError, naming the file, for what is not there or not a whole GPT-2.
        """
        from npgpt.pretrained import load_model

        return load_model(name, dtype, ops)

    def _checked(self, ids: Any) -> np.ndarray:
        ids = np.asarray(ids)
        if ids.dtype.kind not in "iu":
            raise TypeError(f"ids must be integers, got {ids.dtype}")
        if ids.ndim != 2 or 0 in ids.shape:
            raise ValueError(f"ids must have the shape (B, T), both at least 1, got {ids.shape}")
        if ids.shape[1] > self.config.n_positions:
            raise ValueError(f"{ids.shape[1]} tokens are longer than n_positions={self.config.n_positions}")
        return ids

    def _targets(self, ids: Any, targets: Any) -> np.ndarray:
        targets = np.asarray(targets)
        if targets.dtype.kind not in "iu":
            raise TypeError(f"targets must be integers, got {targets.dtype}")
        if targets.shape != np.shape(ids):
            raise ValueError(f"targets {targets.shape} must have the shape of ids {np.shape(ids)}")
        return targets

    def _starts(self, ids: Any, starts: Any) -> Starts:
        if starts is None:
            return None
        starts = np.asarray(starts)
        if starts.dtype.kind not in "iu":
            raise TypeError(f"starts must be integers, got {starts.dtype}")
        if starts.shape != np.shape(ids):
            raise ValueError(f"starts {starts.shape} must have the shape of ids {np.shape(ids)}")
        wrong = (starts < 0) | (starts > np.arange(starts.shape[1]))
        if wrong.any():
            raise ValueError(f"start {starts[wrong][0]} is not in 0..{np.nonzero(wrong)[1][0]}, its own position")
        return starts.astype(np.int64)  # of which positions can be made by subtraction, as they cannot of uint64
