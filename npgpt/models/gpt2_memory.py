"""The memory that a GPT needs, from its shapes: counted before anything is allocated.

The counts follow the arrays that the ops keep for their backwards, and the largest ones that exist in passing.
tests/test_memory.py compares them with what NumPy allocates, and with the peak of a whole run.
"""

from npgpt.config import GPTConfig

BLOCK = 128  # of kernels/attention.py: the longest context for which it keeps the weights


def floats_to_train(config: GPTConfig, fast: bool = True) -> float:
    """Return how many numbers per token a forward and backward pass holds at its peak, besides weights and gradients.

    The context is n_positions tokens long.
    """
    C, F, H, T, V = config.n_embd, config.mlp_width, config.n_head, config.n_positions, config.vocab_size
    weights_kept = T if T <= BLOCK or not fast else 0  # of attention, for each head
    # the residual stream twice, two layer norms, queries, keys, values, heads; the inside of the MLP; attention
    kept: float = 8 * C + (2 if fast else 3) * F + H * (weights_kept + 2)
    in_passing = 10 * C + F + V + H * weights_kept if fast else max(6 * F, 4 * V, 3 * H * T) + 4 * C
    if config.resid_pdrop:  # two masks
        kept += 2 * C
        in_passing += 4 * C
    if config.attn_pdrop:  # the kernel's mask has a byte for a weight
        kept += H * T / 4 if fast else 2 * H * T
        in_passing += 2 * H * weights_kept if fast else H * T
    return config.n_layer * kept + in_passing


def floats_to_evaluate(config: GPTConfig, fast: bool = True) -> float:
    """Return how many numbers per token a forward pass holds at its peak, besides weights."""
    C, F, H, T, V = config.n_embd, config.mlp_width, config.n_head, config.n_positions, config.vocab_size
    if fast:
        return 11 * C + 2 * F + V + (H * T if T <= BLOCK else 0)
    return max(4 * F + 10 * C, 4 * V, 4 * H * T) + 2 * C
