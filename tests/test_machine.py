"""What this process may use of its machine, read from environments and from folders that look like /proc and /sys."""

import struct
from types import SimpleNamespace

import pytest

from npgpt.support.machine import available_memory, cores

MEMINFO = "MemTotal:       24000000 kB\nMemFree:         9000000 kB\nMemAvailable:   16000000 kB\n"
HALF = "proc/self/cgroup", "0::/pod/app\n"


def system(root, *files):
    for name, text in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, 8),
        ({"OMP_NUM_THREADS": "2"}, 2),
        ({"OPENBLAS_NUM_THREADS": "3"}, 3),
        ({"NUMBA_NUM_THREADS": " 1 "}, 1),
        ({"OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "2"}, 2),
        ({"OMP_NUM_THREADS": "3,1"}, 3),  # the outermost level of nesting
        ({"OMP_NUM_THREADS": "64"}, 8),  # more threads than cores only get into each other's way
        *(({"OMP_NUM_THREADS": wrong}, 8) for wrong in ("", "0", "-1", "two", "1e9", "9" * 5000)),
    ],
)
def test_environment_variables_limit_the_threads(environ, expected, tmp_path):
    assert cores(environ, tmp_path, range(8)) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([HALF, ("sys/fs/cgroup/pod/app/cpu.max", "200000 100000\n")], 2),
        ([HALF, ("sys/fs/cgroup/pod/app/cpu.max", "150000 100000\n")], 2),
        ([HALF, ("sys/fs/cgroup/pod/app/cpu.max", "5000 100000\n")], 1),
        ([HALF, ("sys/fs/cgroup/pod/app/cpu.max", "max 100000\n")], 8),
        ([HALF, ("sys/fs/cgroup/pod/cpu.max", "300000 100000\n")], 3),  # a group above limits all in it
        ([HALF, ("sys/fs/cgroup/cpu.max", "300000 100000\n")], 3),  # in a container, whose path is another one
        ([HALF, ("sys/fs/cgroup/pod/app/cpu.max", "broken\n")], 8),
        ([HALF, ("sys/fs/cgroup/other/cpu.max", "100000 100000\n")], 8),
        (
            [
                ("proc/self/cgroup", "4:cpuset:/\n3:cpu,cpuacct:/docker/1\n"),
                ("sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us", "250000\n"),
                ("sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us", "100000\n"),
            ],
            3,
        ),
        (
            [
                ("proc/self/cgroup", "1:cpu:/\n0::/\n"),
                ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
                ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
            ],
            8,
        ),
    ],
)
def test_cpu_quotas_of_control_groups_limit_the_threads(files, expected, tmp_path):
    assert cores({}, system(tmp_path, *files), range(8)) == expected


def test_the_least_limit_wins(tmp_path):
    root = system(tmp_path, HALF, ("sys/fs/cgroup/pod/app/cpu.max", "300000 100000"))
    assert cores({"OMP_NUM_THREADS": "5"}, root, range(8)) == 3
    assert cores({"OMP_NUM_THREADS": "2"}, root, range(8)) == 2
    assert cores({"OMP_NUM_THREADS": "5"}, root, {5}) == 1


def topology(*siblings, capacities=()):
    """Return the kernel's files about cores of which each has the siblings at its place, and a capacity if given."""
    cpu = "sys/devices/system/cpu/cpu{}/".format
    files = [(cpu(i) + "topology/thread_siblings_list", f"{text}\n") for i, text in enumerate(siblings)]
    return files + [(cpu(i) + "cpu_capacity", f"{capacity}\n") for i, capacity in enumerate(capacities)]


PAIRS = topology("0-1", "0-1", "2-3", "2-3")
FAR = topology("0,2", "1,3", "0,2", "1,3")
MIXED = [("sys/devices/cpu_core/cpus", "0-3\n"), ("sys/devices/cpu_atom/cpus", "4-11\n")]


@pytest.mark.parametrize(
    ("files", "allowed", "expected"),
    [
        (PAIRS, {0, 1, 2, 3}, 2),  # the threads of a core count once
        (PAIRS, {0, 1}, 1),
        (PAIRS, {0, 2}, 2),
        (PAIRS, {0, 1, 3}, 2),
        (FAR, {0, 1, 2, 3}, 2),
        (FAR, {0, 2}, 1),
        (topology("0", "1", "2", "3"), {0, 1, 2, 3}, 4),
        (PAIRS, {1, 7, 8}, 3),  # nothing is known of two of them
        # two fast cores of two threads, and slow ones, of which eight do more than both and four do not
        (PAIRS + MIXED, {*range(12)}, 10),
        (PAIRS + MIXED, {*range(8)}, 2),
        (PAIRS + MIXED + topology(*range(12), capacities=[1024] * 4 + [700] * 8)[12:], {*range(8)}, 2),
        (PAIRS + MIXED, {4, 5, 6}, 3),
        (MIXED[1:], {0, 1, 4, 5}, 4),
        # one, three and four cores, where three do more than one, and eight less than four
        (topology(*range(8), capacities=(250, 250, 250, 250, 800, 800, 800, 1024)), {*range(8)}, 4),
        (topology(*range(4), capacities=(1000, 1024, 1000, 1024)), {*range(4)}, 4),
    ],
)
def test_work_is_spread_over_the_physical_cores_that_do_the_most(files, allowed, expected, tmp_path):
    assert cores({}, system(tmp_path, *files), allowed) == expected


def test_a_quota_counts_whatever_the_cores_are(tmp_path):
    root = system(tmp_path, HALF, *PAIRS, ("sys/fs/cgroup/pod/app/cpu.max", "300000 100000"))
    assert cores({}, root, range(4)) == 2
    assert cores({"OMP_NUM_THREADS": "4"}, root, range(4)) == 2
    assert cores({"OMP_NUM_THREADS": "1"}, root, range(4)) == 1


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({b"hw.perflevel0.physicalcpu": 4, b"hw.physicalcpu": 8}, 4),  # M1: four fast cores, four slow ones
        ({b"hw.physicalcpu": 6}, 6),  # Intel: twelve threads
        ({}, 12),
    ],
)
def test_macos_names_its_performance_cores(known, expected, tmp_path, monkeypatch):
    def sysctlbyname(name, number, size, new, new_size):
        number._obj.value = known.get(name, 0)
        return 0 if name in known else -1

    monkeypatch.setattr("npgpt.support.machine.sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr("ctypes.CDLL", lambda name: SimpleNamespace(sysctlbyname=sysctlbyname))
    assert cores({}, tmp_path, range(12)) == expected


@pytest.mark.parametrize(
    ("kinds", "works", "expected"), [([0] * 4, 1, 4), ([1, 1, 0, 0], 1, 2), ([1, *[0] * 4], 1, 5), ([0] * 4, 0, 8)]
)
def test_windows_lists_its_cores_and_their_kinds(kinds, works, expected, tmp_path, monkeypatch):
    # RelationProcessorCore, the record's size, flags, kind, and 38 bytes of masks
    records = b"".join(struct.pack("<IIBB38x", 0, 48, 1, kind) for kind in kinds)

    def ask(relationship, buffer, size):
        assert relationship == 0
        if buffer is None:
            size._obj.value = len(records)
            return 0
        assert len(buffer) == size._obj.value == len(records)
        buffer[:] = records
        return works

    kernel = SimpleNamespace(kernel32=SimpleNamespace(GetLogicalProcessorInformationEx=ask))
    monkeypatch.setattr("npgpt.support.machine.sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr("ctypes.windll", kernel, raising=False)
    assert cores({}, tmp_path, range(8)) == expected


def test_affinity_is_asked_where_the_system_has_it(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {1, 2, 3, 7}, raising=False)
    assert cores({}, tmp_path) == 4
    assert cores({}, system(tmp_path / "pairs", *PAIRS)) == 3
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert cores({}, tmp_path) == 6
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert cores({}, tmp_path) == 1


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([], None),
        ([("proc/meminfo", "MemTotal: 1 kB\n")], None),
        ([("proc/meminfo", MEMINFO)], 16_384_000_000),
        (
            [
                ("proc/meminfo", MEMINFO),
                HALF,
                ("sys/fs/cgroup/pod/app/memory.max", "max\n"),
                ("sys/fs/cgroup/pod/memory.max", "4000000000\n"),
                ("sys/fs/cgroup/pod/memory.current", "3000000000\n"),
                ("sys/fs/cgroup/pod/memory.stat", "anon 1\ninactive_file 500000000\nfile 1\n"),
            ],
            1_500_000_000,
        ),
        (
            [
                ("proc/self/cgroup", "4:memory:/job\n"),
                ("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "2000000000\n"),
                ("sys/fs/cgroup/memory/job/memory.usage_in_bytes", "1500000000\n"),
                ("sys/fs/cgroup/memory/job/memory.stat", "inactive_file 7\ntotal_inactive_file 100\n"),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1600000000\n"),
            ],
            500_000_100,
        ),
        (
            [
                HALF,
                ("sys/fs/cgroup/pod/app/memory.max", "1000\n"),
                ("sys/fs/cgroup/pod/app/memory.current", "1400\n"),
            ],
            0,
        ),
    ],
)
def test_memory_is_what_the_machine_and_its_control_groups_leave(files, expected, tmp_path):
    assert available_memory(system(tmp_path, *files)) == expected
