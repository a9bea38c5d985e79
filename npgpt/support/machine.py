"""What this process may use of its machine: cores and memory, as the user, the scheduler and containers limit them."""

import ctypes
import math
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

# what libraries of numerical code read, too; OMP_NUM_THREADS may list a number for each level of nesting
VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")

# The speed of a performance core, in the units of Linux, and of an efficiency core, where the system tells no more than
# the kinds. In products, the efficiency cores of Intel and Apple reach a quarter to a half of the others' speed.
FAST, SLOW = 1024, 1024 // 3


def cores(
    environ: Mapping[str, str] = os.environ, root: Path = Path("/"), allowed: Collection[int] | None = None
) -> int:
    """Return how many threads to run at once, at least 1: the least of the physical cores that this process may run on,
    of the CPU quotas of its control groups (1.5 cores count as 2), and of the numbers in VARIABLES.

    environ, root  the environment variables, and the folder that holds /proc and /sys
    allowed        the numbers of the logical cores that it may run on; None asks the system
    """
    if allowed is None:
        allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    wanted = (re.match(r"\s*0*([1-9]\d{0,5})\s*(,|$)", environ.get(name, "")) for name in VARIABLES)
    return min([physical_cores(allowed, root), *(int(found[1]) for found in wanted if found), *_quotas(root)])


def physical_cores(allowed: Collection[int], root: Path = Path("/")) -> int:
    """Return over how many of the allowed cores to split work evenly, at least 1.

    The threads of one core share its arithmetic, so they count once. The slowest core holds up all the others. So n
    cores of different kinds do n times what the slowest of them does, and the n that makes the most of it is returned:
    8 fast and 4 slow cores count as 8, but 2 fast and 8 slow ones as 10. Where the system tells nothing about its
    cores, each allowed one counts.
    """
    if sys.platform == "darwin":
        speeds = _speeds_on_macos()
    elif sys.platform == "win32":
        speeds = _speeds_on_windows()
    else:
        speeds = _speeds_on_linux(allowed, root)
    speeds = sorted(speeds, reverse=True)[: len(allowed)] or [FAST] * len(allowed)
    return max(range(1, len(speeds) + 1), key=lambda n: n * speeds[n - 1])


def _speeds_on_linux(allowed: Collection[int], root: Path) -> list[int]:
    """Return the speed of each physical core: on Intel's hybrids that of its kind, elsewhere its capacity if given.

    The capacities of hybrids are those of scalar code, in which the slow cores lose less.
    """
    fast, speeds = _numbers(_read(root / "sys/devices/cpu_core/cpus")), {}
    for cpu in allowed:
        folder = root / f"sys/devices/system/cpu/cpu{cpu}"
        siblings = _read(folder / "topology/thread_siblings_list").strip()
        slow = fast and cpu not in fast
        speeds[siblings or cpu] = SLOW if slow else (not fast and _number(folder / "cpu_capacity")) or FAST
    return list(speeds.values())


def _speeds_on_macos() -> list[int]:
    """Return the speed of each performance core; all other Macs have cores of one kind."""
    number, size = ctypes.c_int(0), ctypes.c_size_t(4)
    for name in b"hw.perflevel0.physicalcpu", b"hw.physicalcpu":
        if not ctypes.CDLL(None).sysctlbyname(name, ctypes.byref(number), ctypes.byref(size), None, 0):
            return [FAST] * number.value
    return []


def _speeds_on_windows() -> list[int]:
    """Return the speed of each physical core: Windows numbers the kinds, and the fastest has the largest number."""
    ask = ctypes.windll.kernel32.GetLogicalProcessorInformationEx  # type: ignore[attr-defined]
    size = ctypes.c_ulong(0)
    ask(0, None, ctypes.byref(size))  # 0: one record for each core; this call asks for their size alone
    records = ctypes.create_string_buffer(size.value)
    if not ask(0, records, ctypes.byref(size)):
        return []
    kinds, start = [], 0
    while start < size.value:  # a record: relationship and size, 4 bytes each, flags and kind, 1 byte each, and more
        kinds.append(records.raw[start + 9])
        start += int.from_bytes(records.raw[start + 4 : start + 8], "little")
    return [FAST if kind == max(kinds) else SLOW for kind in kinds]


def _numbers(text: str) -> set[int]:
    """Return the numbers in a list of the kernel's, such as "0-3,8"."""
    ends = (part.split("-") for part in text.strip().split(",") if re.fullmatch(r"\d+(-\d+)?", part))
    return {number for end in ends for number in range(int(end[0]), int(end[-1]) + 1)}


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
