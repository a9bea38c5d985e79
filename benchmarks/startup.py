"""Start-up: help, imports, and the first step of training, with kernels to compile and with kernels that are kept."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.timing import installed, machine, show, table

HELP = [sys.executable, "-m", "npgpt", "--help"]
IMPORTS = {
    "import npgpt": "import npgpt",
    "from npgpt import GPT": "from npgpt import GPT",
    "import torch": "import torch",
    "import jax": "import jax",
    "import transformers": "import transformers",
}
TRAIN: tuple[str, ...] = ()  # further flags of the training
# prints the seconds from the start of the process to the end of the first step
FIRST_STEP = """
import os, sys, time
from npgpt.training import loop
step = loop.train_step
def first(*args):
    record = step(*args)
    started = int(open("/proc/self/stat").read().rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")
    print("first step after", float(open("/proc/uptime").read().split()[0]) - started, flush=True)
    os._exit(0)
loop.train_step = first
from npgpt.cli import main
main(sys.argv[1:])
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5, help="processes of each kind (default: 5)")
    parser.add_argument("--json", action="store_true", help="print every time as JSON")


def run(options: argparse.Namespace) -> int:
    times: dict[str, list[float]] = {}
    commands = {"npgpt --help": HELP}
    for name, code in IMPORTS.items():
        package = code.split()[1].split(".")[0]
        if package == "npgpt" or installed(package):
            commands[name] = [sys.executable, "-c", code]
    for _ in range(options.rounds):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            times.setdefault(name, []).append(time.perf_counter() - start)
    with tempfile.TemporaryDirectory() as folder:
        times["npgpt train, first step, compiling"] = [first_step(folder)]
        again = [first_step(folder) for _ in range(options.rounds)]
        times["npgpt train, first step, compiled before"] = again
    rows = [[name, f"{median(found):.2f} s"] for name, found in times.items()]
    lines = [machine(["torch", "jax", "transformers", "numba"]), "", *table(["start-up", "median"], rows)]
    show(lines, {"machine": lines[0], "times": times}, options.json)
    return 0


def first_step(folder: str) -> float:
    """Return the seconds from the start of `npgpt train` to the end of its first step, kernels kept in folder."""
    text = Path(folder) / "text"
    text.write_text("".join(map(chr, range(32, 96))) * 500)
    environment = {**os.environ, "XDG_CACHE_HOME": folder, "PYTHONPATH": os.getcwd()}
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-c", FIRST_STEP, "train", "--data", str(text), "--out", f"{out}/run", *TRAIN]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    found = [line for line in done.stdout.splitlines() if line.startswith("first step after")]
    if not found:
        raise RuntimeError(done.stderr)
    return float(found[0].split()[-1])
