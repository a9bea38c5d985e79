"""How large a model is: its parameters by group."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

GROUPS = {  # the first that a name has
    "encoder.": "encoder",
    "bridge.": "bridge",
    "decoder.wte": "decoder's embedding",
    "decoder.head": "decoder's head",
    "decoder.": "decoder",
    "wte": "token embedding",
    "wpe": "position embedding",
    ".attn.": "attention",
    ".mlp.": "MLP",
    "ln_": "layer norm",
    "lm_head": "head",
}


def count_parameters(params: Mapping[str, np.ndarray]) -> Counter[str]:
    """Return the number of parameters in each group that has any."""
    counts: Counter[str] = Counter()
    for name, array in params.items():
        group = next((group for key, group in GROUPS.items() if key in name), "other")
        counts[group] += array.size
    return counts
