"""`python -m benchmarks NAME [OPTION ...]`: run one benchmark, and print its table."""

import argparse
import sys
from types import ModuleType

from benchmarks import (
    generation,
    generators,
    gradcheck,
    kernels,
    learning,
    memory,
    recipes,
    scaling,
    startup,
    step,
    tokenizer,
)

BENCHMARKS: dict[str, ModuleType] = {
    "step": step,
    "learning": learning,
    "kernels": kernels,
    "scaling": scaling,
    "startup": startup,
    "memory": memory,
    "gradcheck": gradcheck,
    "tokenizer": tokenizer,
    "generation": generation,
    "recipes": recipes,
    "generators": generators,
}


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark that the command line names; each has `add_options(parser)` and `run(options)`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure npgpt beside its peers.")
    names = parser.add_subparsers(dest="name", metavar="NAME", required=True)
    for name, module in BENCHMARKS.items():
        summary = (module.__doc__ or "").split("\n")[0]
        module.add_options(names.add_parser(name, help=summary, description=summary))
    options = parser.parse_args(argv)
    return int(BENCHMARKS[options.name].run(options))


if __name__ == "__main__":
    sys.exit(main())
