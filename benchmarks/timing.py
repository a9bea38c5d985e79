"""What the benchmarks share: contestants timed in turns, and their medians as a table or as JSON.

On a machine that others use too a time says little and a ratio of times taken in turns says more. So all contestants of
a table run round after round in one process, a few calls each, after a pause in which the threads of the one before go
to sleep.
"""

import json
import os
import platform
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

PAUSE = 0.15  # seconds; OpenBLAS and OpenMP threads spin for a while before they sleep
WARM = 2  # calls that are not counted, in each turn


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
            if sys.stderr.isatty():
                print(f"\r\033[Kround {i + 1} of {rounds}: {contestant.name}", end="", file=sys.stderr)
            time.sleep(PAUSE)
            with contestant.setting():
                for _ in range(WARM if i else WARM + 1):
                    contestant.call()
                end = time.perf_counter() + seconds
                while True:
                    start = time.perf_counter()
                    contestant.call()
                    stop = time.perf_counter()
                    contestant.times.append(stop - start)
                    if stop > end:
                        break
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)


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
    """Name the machine, its load and the versions of what is installed."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = models[0] if models else cpu
    names = [name for name in dict.fromkeys(["numpy", *packages]) if installed(name)]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{platform.platform()}; {cpu}, {os.cpu_count()} cores{load}; Python {platform.python_version()}, {versions}"


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
