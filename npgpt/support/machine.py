"""What this process may use of its machine: cores and memory, as the user, the scheduler and containers limit them."""

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

# what libraries of numerical code read, too; OMP_NUM_THREADS may list a number for each level of nesting
VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def cores(environ: Mapping[str, str] = os.environ, root: Path = Path("/"), allowed: int | None = None) -> int:
    """Return how many threads to run at once, at least 1: the least of the cores that this process may run on, of the
    CPU quotas of its control groups (1.5 cores count as 2), and of the numbers in VARIABLES.

    environ, root  the environment variables, and the folder that holds /proc and /sys
    allowed        the cores that it may run on; None asks the system
    """
    if allowed is None:
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = (re.match(r"\s*0*([1-9]\d{0,5})\s*(,|$)", environ.get(name, "")) for name in VARIABLES)
    return min([allowed, *(int(found[1]) for found in wanted if found), *_quotas(root)])


def available_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that this process can still fill, or None on a system that does not say.

    That is the least of what the machine has and of what its control groups leave; a cache of files counts as free.
    """
    found = re.search(r"^MemAvailable:\s*(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    free = [int(found[1]) * 1024] if found else []
    for folder in _groups(root, "memory"):
        if (limit := _number(folder / "memory.max")) is not None:
            used, cache = _number(folder / "memory.current"), r"^inactive_file (\d+)"
        else:
            limit, used = (_number(folder / f"memory.{name}_in_bytes") for name in ("limit", "usage"))
            cache = r"^total_inactive_file (\d+)"
        if limit is not None and used is not None:
            kept = re.search(cache, _read(folder / "memory.stat"), re.MULTILINE)
            free.append(max(0, limit - used + (int(kept[1]) if kept else 0)))
    return min(free, default=None)


def _quotas(root: Path) -> Iterator[int]:
    """Yield the CPU quota of each control group that has one, in whole cores."""
    for folder in _groups(root, "cpu"):
        quota = _read(folder / "cpu.max").split()  # version 2: "150000 100000", or "max 100000"
        quota = quota or [_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
        if len(quota) == 2 and all(re.fullmatch("[1-9][0-9]*", part) for part in quota):
            yield math.ceil(int(quota[0]) / int(quota[1]))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control groups: its own and all above it, each of which may set a limit.

    Inside a container, /proc/self/cgroup may name a path that exists outside only; its own is then the topmost folder.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:  # version 2
            tops = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        elif controller in controllers.split(","):
            tops = [root / "sys/fs/cgroup" / controller, root / "sys/fs/cgroup" / controllers]
        else:
            continue
        for top in dict.fromkeys(tops):
            own = top / path.lstrip("/")
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(top))


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdecimal() else None


def _read(path: Path) -> str:
    """Return what a small file of the system says, or "" if it does not exist or cannot be read."""
    try:
        return path.read_text("ascii", "replace")
    except OSError:
        return ""
