"""Show a model: its sizes, parameters by group, memory, and FLOPs a token."""

import argparse
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from npgpt.config import GPTConfig
    from npgpt.parameters import Parameters

GROUPS = {
    "wte": "token embedding",
    "wpe": "position embedding",
    ".attn.": "attention",
    ".mlp.": "MLP",
    "ln_": "layer norm",
    "lm_head": "head",
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder, or a GPT-2 on the Hugging Face hub")


def run(args: argparse.Namespace) -> int:
    from npgpt.model import GPT

    model = GPT.from_pretrained(args.run, ops="reference")
    config = model.config
    head = "tied head" if config.tie_word_embeddings else "untied head"
    print(
        f"{args.run}: {config.n_layer} blocks, {config.n_head} heads, {config.n_embd} channels, "
        f"context {config.n_positions}, vocabulary {config.vocab_size:,}, {head}"
    )
    total = model.params.flat.size
    print("\nparameters")
    for group, count in count_parameters(model.params).items():
        print(f"  {group:<20}{count:>14,}  {count / total:6.1%}")
    print(f"  {'total':<20}{total:>14,}")
    print("\nmemory in float32, without activations")
    print(f"  {'to sample':<20}{scaled(4 * total, BYTES):>17}  the weights")
    print(f"  {'to train':<20}{scaled(16 * total, BYTES):>17}  and as much for gradients and each of AdamW's averages")
    forward = flops_per_token(config)
    print("\nfloating-point operations a token, at full context")
    print(f"  {'to sample':<20}{scaled(forward, FLOPS):>17}  the forward pass")
    print(f"  {'to train':<20}{scaled(3 * forward, FLOPS):>17}  and twice as much for the backward pass")
    return 0


BYTES = ("kB", "MB", "GB")
FLOPS = ("thousand", "million", "billion")


def scaled(number: float, units: tuple[str, str, str]) -> str:
    """Return a number in the largest of three units, a thousand times apart, in which it is at least 1."""
    power = 2 if number >= 1e9 else 1 if number >= 1e6 else 0
    return f"{number / 1000 ** (power + 1):,.2f} {units[power]}"


def count_parameters(params: "Parameters") -> Counter[str]:
    """Return the number of parameters in each group that has any."""
    counts: Counter[str] = Counter()
    for name, array in params.items():
        group = next(group for key, group in GROUPS.items() if key in name)
        counts[group] += array.size
    return counts


def flops_per_token(config: "GPTConfig") -> float:
    """Return the operations of one token's forward pass, averaged over a full context.

    Two for each weight of a matrix product; in attention two for each channel of each visible key, once for the scores
    and once for the values, and a token sees (T + 1) / 2 keys on average. All else is small.
    """
    C, T, V = config.n_embd, config.n_positions, config.vocab_size
    matrices = config.n_layer * (4 * C * C + 2 * C * config.mlp_width) + V * C
    attention = config.n_layer * 2 * C * (T + 1) / 2
    return 2 * (matrices + attention)
