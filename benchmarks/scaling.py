"""How the time of a training step grows: with threads, with the context, with the parameters."""

import argparse
from dataclasses import replace

import numpy as np

from benchmarks.step import own_step
from benchmarks.timing import Contestant, as_json, in_turns, machine, milliseconds, show, table
from npgpt import GPTConfig
from npgpt.config import preset
from npgpt.training.workers import n_threads

CONTEXTS = (64, 128, 256, 512, 1024, 2048)
TOKENS = 2048  # of a batch, whatever the context: so that products other than attention's stay the same
WIDTHS = (64, 128, 256, 384, 512, 768)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5, help="turns of each size (default: 5)")
    parser.add_argument("--json", action="store_true", help="print every time as JSON")


def run(options: argparse.Namespace) -> int:
    threads = n_threads()
    tiny = preset("tiny", vocab_size=65)
    counts = sorted({1, 2, threads})
    parts = {
        "threads": {f"{n} thread(s)": (tiny, 12, n) for n in counts},
        "contexts": {f"T={t}": (replace(tiny, n_positions=t), TOKENS // t, threads) for t in CONTEXTS},
        "widths": {f"C={c}": (replace(tiny, n_embd=c, n_head=c // 32), 12, threads) for c in WIDTHS},
    }
    titles = {
        "threads": "tiny, batch 12 x 64",
        "contexts": f"tiny, {TOKENS} tokens a batch",
        "widths": "4 layers, batch 12 x 64",
    }
    lines, data = [machine(["numba"])], {}
    for part, sizes in parts.items():
        contestants, parameters = [], []
        for name, (config, B, n) in sizes.items():
            found, count = contestant(name, config, B, n)
            contestants.append(found)
            parameters.append(count)
        in_turns(contestants, options.rounds, seconds=0.1)
        first = contestants[0].median
        rows = [
            [c.name, f"{count / 1e6:.2f}M", milliseconds(c.median), f"{c.median / first:.2f}"]
            for c, count in zip(contestants, parameters, strict=True)
        ]
        lines += ["", *table([titles[part], "parameters", "a step", "against the first"], rows)]
        data[part] = as_json(contestants)
    show(lines, {"machine": lines[0], "parts": data}, options.json)
    return 0


def contestant(name: str, config: GPTConfig, B: int, threads: int) -> tuple[Contestant, int]:
    """Return a training step of that size, and its count of parameters."""
    step = own_step(config, B, threads)
    ids, targets = np.random.default_rng(0).integers(0, config.vocab_size, (2, B, config.n_positions))
    found = step.contestant(ids, targets)
    return Contestant(name, found.call, found.setting), step.model.params.flat.size
