"""What a machine can do: its processor, its BLAS, and the most that it reaches in products and in copies."""

import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

SIDE = 512  # of the matrices whose product is measured; each takes milliseconds, so some run while no neighbour does
COPIED, COPIED_BY_EACH = 2**26, 2**24  # least bytes that all threads, and each, copy: more than caches hold
SECONDS = 0.5  # for each of the two


class Peaks(NamedTuple):
    """Operations per second in products, and bytes per second that copies read and write, on some threads."""

    flops: float
    bytes: float


def measured_peaks(threads: int, dtype: str | np.dtype) -> Peaks:
    """Measure, in about a second, what the threads reach together in NumPy's products and in copies."""
    rng = np.random.default_rng(0)
    matrices = [rng.random((3, SIDE, SIDE)).astype(dtype) for _ in range(threads)]
    arrays = [np.ones((2, max(COPIED // threads, COPIED_BY_EACH)), np.uint8) for _ in range(threads)]

    def product(i: int) -> None:
        a, b, out = matrices[i]
        np.matmul(a, b, out=out)

    def copy(i: int) -> None:
        source, target = arrays[i]
        np.copyto(target, source)

    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        flops = threads * 2 * SIDE**3 / fastest(pool, product, threads)
        return Peaks(flops, sum(array.nbytes for array in arrays) / fastest(pool, copy, threads))


def fastest(pool: ThreadPoolExecutor, work: Callable[[int], None], threads: int) -> float:
    """Return the least seconds in which all threads do their work. Neighbours can only slow it down."""
    times: list[float] = []
    until = time.perf_counter() + SECONDS
    while len(times) < 3 or time.perf_counter() < until:
        start = time.perf_counter()
        list(pool.map(work, range(threads)))
        times.append(time.perf_counter() - start)
    return min(times[1:])  # the first starts the threads


def processor() -> str:
    """Return the processor's name, as far as the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def load() -> float | None:
    """Return how many threads of all programs have been running lately; None where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def blas() -> str:
    """Return the name of NumPy's BLAS, its version, its kernels, and the variable that chooses them, if one does."""
    found = [library for library in threadpool_info() if library["user_api"] == "blas"]
    found.sort(key=lambda library: "numpy" not in library["filepath"])
    if not found:
        return "BLAS unknown"
    name = f"{found[0]['internal_api']} {found[0]['version'] or ''}".strip()
    if kernels := found[0].get("architecture"):
        name += f" with its {kernels} kernels"
    if chosen := os.environ.get("OPENBLAS_CORETYPE"):
        name += f" (OPENBLAS_CORETYPE={chosen} is set)"
    return name
