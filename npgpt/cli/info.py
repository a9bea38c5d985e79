"""Show a model's sizes, its parameters by group, the memory that it needs, and its FLOPs per token."""

import argparse

EXAMPLES = (
    "npgpt info runs/poems",
    "npgpt info openai-community/gpt2",
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder, or the name of a GPT-2 on the Hugging Face hub")


def run(args: argparse.Namespace) -> int:
    from npgpt.inspection.sizes import count_parameters
    from npgpt.models.registry import open_model

    model = open_model(args.run, ops="reference")
    print(f"{args.run}: {model.describe()}")
    total = model.size
    print("\nparameters")
    for group, count in count_parameters(model.params).items():
        print(f"  {group:<20}{count:>14,}  {count / total:6.1%}")
    print(f"  {'total':<20}{total:>14,}")
    print("\nmemory in float32, without activations")
    print(f"  {'to sample':<20}{scaled(4 * total, BYTES):>17}  the weights")
    print(f"  {'to train':<20}{scaled(16 * total, BYTES):>17}  the weights, the gradients and AdamW's two averages")
    forward = model.flops_per_token
    print("\nfloating-point operations per token, at full context")
    print(f"  {'to sample':<20}{scaled(forward, FLOPS):>17}  the forward pass")
    print(
        f"  {'to train':<20}{scaled(3 * forward, FLOPS):>17}  the forward pass, and twice as much for the backward pass"
    )
    return 0


BYTES = ("kB", "MB", "GB")
FLOPS = ("thousand", "million", "billion")


def scaled(number: float, units: tuple[str, str, str]) -> str:
    """Return a number in the largest of three units in which it is at least 1; each is a thousand of the one before."""
    power = 2 if number >= 1e9 else 1 if number >= 1e6 else 0
    return f"{number / 1000 ** (power + 1):,.2f} {units[power]}"
