"""The memory that a GPT needs, from its shapes: counted before anything is allocated.

The counts follow the arrays that the ops keep for their backwards, and the largest ones that exist in passing.
tests/test_memory.py compares them with what NumPy allocates, and with the peak of a whole run.
"""

from npgpt.config import GPTConfig

BLOCK = 128  # of kernels/attention.py: the longest context for which it keeps the weights
LOGITS, ROWS = 2**24, 64  # of kernels/memory.py: how many logits it computes at a time, and of how many rows at least


def floats_to_train(config: GPTConfig, fast: bool = True, tokens: int = 1) -> float:
    """Return how many numbers per token a forward and backward pass holds at its peak, besides weights and gradients.

    The context is n_positions tokens long. With many tokens in a batch, the compiled step does not keep all logits.
    """
    C, F, H, T, V = config.n_embd, config.mlp_width, config.n_head, config.n_positions, config.vocab_size
    if fast:  # the pieces of kernels/memory.py
        kept: float = 8 * C + 2 * F + 2 * H + 4 + (H * T if T <= BLOCK else 0)
        in_passing = 13 * C + F + logits_kept(V, tokens) + 6
        if config.resid_pdrop:  # a byte for each element of two masks; two gradients with a mask
            kept += 2 * C / 4
            in_passing += 2 * C
        return config.n_layer * (kept + (H * T / 4 if config.attn_pdrop else 0)) + in_passing
    # the residual stream twice, two layer norms, queries, keys, values, heads; the inside of the MLP; attention
    kept = 8 * C + 3 * F + H * (T + 2)
    in_passing = max(6 * F, 4 * V, 3 * H * T) + 4 * C
    if config.resid_pdrop:  # two masks
        kept += 2 * C
        in_passing += 4 * C
    if config.attn_pdrop:
        kept += 2 * H * T
        in_passing += H * T
    return config.n_layer * kept + in_passing


def floats_to_evaluate(config: GPTConfig, fast: bool = True, tokens: int = 1) -> float:
    """Return how many numbers per token a forward pass holds at its peak, besides weights."""
    C, F, H, T, V = config.n_embd, config.mlp_width, config.n_head, config.n_positions, config.vocab_size
    if fast:
        return 12 * C + 2 * F + 2 * H + logits_kept(V, tokens) + (H * T if T <= BLOCK else 0) + 10
    return max(4 * F + 10 * C, 4 * V, 4 * H * T) + 2 * C


def logits_kept(V: int, tokens: int) -> float:
    """Return how many logits there are for each token, on average over a batch of so many tokens."""
    return V * min(1.0, max(ROWS, LOGITS // V) / tokens)
