"""Memory: what a training step of GPT-2 124M needs beside PyTorch, and how activations grow with the context."""

import argparse
import json
import subprocess
import sys

from benchmarks.timing import installed, machine, show, table

V, B, T = 50257, 4, 64
GROWTH = (64, 128, 256, 512, 1024, 2048)
# Each in a process of its own, because a process never gives back its peak
OWN = f"""
import numpy as np
from benchmarks.step import own_step
from npgpt.config import preset
step = own_step(preset("gpt2", vocab_size={V}, n_positions={T}), {B}, 2)
ids, targets = np.random.default_rng(0).integers(0, {V}, (2, {B}, {T}))
with step.workers:
    for _ in range(3):
        step(ids, targets)
"""
PEER = f"""
import numpy as np
from benchmarks import peer_models as peers
from npgpt import GPT
from npgpt.config import preset
config = preset("gpt2", vocab_size={V}, n_positions={T})
ids, targets = np.random.default_rng(0).integers(0, {V}, (2, {B}, {T}))
start = GPT(config, seed=0, ops="reference")
step = peers.torch_step(peers.{{model}})
del start
for _ in range(3):
    step(ids, targets)
"""
# not getrusage's ru_maxrss, in which Linux counts the process that this one was started from
PEAK = """
import re
print(1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]))
"""
ACTIVATIONS = """
import numpy as np
from benchmarks.step import own_step
from npgpt.config import preset
step = own_step(preset("tiny", vocab_size=65, n_positions={T}), 1, 1)
ids, targets = np.random.default_rng(0).integers(0, 65, (2, 1, {T}))
with step.workers:
    step(ids, targets)
print(step.workers.buffers[0].nbytes)
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(options: argparse.Namespace) -> int:
    peak = {"npgpt": printed(OWN + PEAK)}
    if installed("torch"):
        peak["PyTorch, eager"] = printed(PEER.format(model="torch_model(config, start.params)") + PEAK)
    if installed("transformers"):
        model = "transformers_loss(peers.transformers_model(config, start.params))"
        peak["transformers, eager"] = printed(PEER.format(model=model) + PEAK)
    activations = {t: printed(ACTIVATIONS.format(T=t)) for t in GROWTH}
    lines = [machine(["torch", "transformers"]), ""]
    lines += table(
        [f"training gpt2, 124M parameters, batch {B} x {T}", "peak resident memory"],
        [[name, f"{size / 1e9:.2f} GB"] for name, size in peak.items()],
    )
    lines += ["", *table(["tiny, batch 1, context", *map(str, GROWTH)], [growth_row(activations)])]
    show(lines, {"machine": lines[0], "peak": peak, "activations": activations}, options.json)
    return 0


def growth_row(activations: dict[int, int]) -> list[str]:
    return ["buffers of a step, KB a token", *(f"{size / t / 1e3:.1f}" for t, size in activations.items())]


def printed(script: str) -> int:
    """Run a script in a process of its own and return the number that it prints."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return int(json.loads(done.stdout.splitlines()[-1]))
