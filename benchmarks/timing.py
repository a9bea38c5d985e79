"""What the benchmarks share: contestants timed in turns, and their medians as a table or as JSON.

On a machine that others use too a time says little and a ratio of times taken in turns says more. So all contestants of
a table run round after round in one process, a few calls each, after a pause in which the threads of the one before go
to sleep.
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from npgpt.inspection.peaks import blas, processor

PAUSE = 0.15  # seconds; OpenBLAS and OpenMP threads spin for a while before they sleep
WARM = 2  # calls that are not counted, in each turn

# environment variables that hold a library to the kernels of an older processor, and to fewer threads
KERNELS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_DEBUG_CPU_TYPE", "MKL_ENABLE_INSTRUCTIONS")
KERNELS += ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "NPY_DISABLE_CPU_FEATURES")
KERNELS += ("NVPL_BLAS_DEBUG_CPU_TYPE",) if platform.machine() in ("aarch64", "arm64") else ()  # a library for Arm
THREADS = ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass
class Contestant:
    """A function to time, and the setting that it runs in: a limit of threads, say."""

    name: str
    call: Callable[[], Any]
    setting: Callable[[], AbstractContextManager] = nullcontext
    times: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return median(self.times)


def in_turns(contestants: Sequence[Contestant], rounds: int, seconds: float = 0.3) -> None:
    """Time every contestant in every round, for at least one call and about this many seconds."""
    for i in range(rounds):
        for contestant in contestants:
            progress(f"round {i + 1} of {rounds}: {contestant.name}")
            turn(contestant, seconds, WARM if i else WARM + 1)
    progress("")


def turn(contestant: Contestant, seconds: float, warm: int = WARM) -> None:
    """Time a contestant for at least one call and about this many seconds, after calls that are not counted."""
    time.sleep(PAUSE)
    with contestant.setting():
        for _ in range(warm):
            contestant.call()
        end = time.perf_counter() + seconds
        while True:
            start = time.perf_counter()
            contestant.call()
            stop = time.perf_counter()
            contestant.times.append(stop - start)
            if stop > end:
                break


def progress(text: str) -> None:
    """Replace the last line of a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def agree(name: str, found: Mapping[str, Any], expected: Mapping[str, Any], tolerance: float) -> None:
    """Raise AssertionError unless every array is that of the peer, to a share of the peer's norm."""
    for key, value in expected.items():
        error = np.linalg.norm(np.asarray(found[key], float) - np.asarray(value, float))
        limit = tolerance * (np.linalg.norm(value) + 1e-30)
        # written so that NaN does not pass
        assert error <= limit, f"{name}: {key} is off by {error:.1e}, of a norm of {np.linalg.norm(value):.1e}"


def installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def machine(packages: Iterable[str] = ()) -> str:
    """Name the machine, its load, NumPy's BLAS and the versions of what is installed; warn of what slows it down."""
    names = [name for name in dict.fromkeys(["numpy", *packages]) if installed(name)]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    cpu = f"{processor()}{hidden_name()}, {os.cpu_count()} cores, load {load:.1f}"
    about = f"{platform.platform()}; {cpu}; Python {platform.python_version()}, {versions}; {blas()}"
    return "\n".join([about, *slower(os.environ, load)])


def hidden_name() -> str:
    """Return the numbers of the processor's family and model, because some machines hide its name."""
    info = Path("/proc/cpuinfo")
    first = info.read_text("utf-8", "replace").split("\n\n")[0] if info.exists() else ""
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    return f" (family {values['cpu family']}, model {values['model']})" if "cpu family" in values else ""


def slower(environ: Mapping[str, str], load: float = 0.0) -> list[str]:
    """Return a warning for each environment variable that may choose slower kernels or fewer threads, and for a load
    of other processes, which slows down those contestants most whose threads wait for each other.
    """
    lines = [
        f"warning: {name}={environ[name]} is set, which may hold slower kernels: measure without it (env -u {name})"
        for name in KERNELS
        if environ.get(name)
    ]
    if lines:
        code = "from npgpt.inspection.peaks import blas; print(blas())"
        free = {name: value for name, value in environ.items() if name not in KERNELS}
        done = subprocess.run([sys.executable, "-c", code], env=free, capture_output=True, text=True)
        if done.returncode == 0:
            lines.append(f"warning: without such variables, NumPy's products run in {done.stdout.strip()}")
    for name in THREADS:
        count = environ.get(name, "").partition(",")[0].strip()
        if count.isdecimal() and 0 < int(count) < (os.cpu_count() or 1):
            lines.append(f"warning: {name}={count} is set: libraries use fewer threads than the machine has cores")
    if load > 0.5:
        lines.append(f"warning: the load is {load:.1f}: other processes disturb the measurement")
    return lines


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table, its columns in line."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return [line(header), line(["-" * width for width in widths]), *map(line, rows)]


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"


def against(title: str, own: Contestant, peers: Sequence[Contestant]) -> list[str]:
    """Return a table of a contest: each median, its spread, and npgpt's time as a share of it."""
    rows = []
    for contestant in [own, *peers]:
        low, high = np.quantile(contestant.times, [0.25, 0.75])
        ratio = "" if contestant is own else f"{own.median / contestant.median:.2f}"
        rows.append(
            [contestant.name, milliseconds(contestant.median), f"{milliseconds(low)} to {milliseconds(high)}", ratio]
        )
    return ["", *table([title, "median", "middle half", "npgpt's time against it"], rows)]


def as_json(contestants: Sequence[Contestant]) -> dict[str, Any]:
    return {c.name: {"median": c.median, "times": c.times} for c in contestants}


def show(lines: Sequence[str], data: Mapping[str, Any], want_json: bool) -> None:
    """Print the tables, or all the figures behind them."""
    print(json.dumps(data, indent=1) if want_json else "\n".join(lines), flush=True)
