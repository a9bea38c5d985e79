"""How large a GPT is: parameters by group, and operations a token."""

from collections import Counter

from npgpt.config import GPTConfig
from npgpt.support.parameters import Parameters

GROUPS = {
    "wte": "token embedding",
    "wpe": "position embedding",
    ".attn.": "attention",
    ".mlp.": "MLP",
    "ln_": "layer norm",
    "lm_head": "head",
}


def count_parameters(params: Parameters) -> Counter[str]:
    """Return the number of parameters in each group that has any."""
    counts: Counter[str] = Counter()
    for name, array in params.items():
        group = next(group for key, group in GROUPS.items() if key in name)
        counts[group] += array.size
    return counts


def flops_per_token(config: GPTConfig) -> float:
    """Return the operations of one token's forward pass, averaged over a full context.

    Two for each weight of a matrix product; in attention two for each channel of each visible key, once for the scores
    and once for the values, and a token sees (T + 1) / 2 keys on average. All else is small.
    """
    C, T, V = config.n_embd, config.n_positions, config.vocab_size
    matrices = config.n_layer * (4 * C * C + 2 * C * config.mlp_width) + V * C
    attention = config.n_layer * 2 * C * (T + 1) / 2
    return 2 * (matrices + attention)
