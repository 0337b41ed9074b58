"""The processors and memory that this process may use, which in a container may be less than the machine has.

A container's limits are those of its control groups (see the Linux kernel's documentation of cgroup v2).
"""

import ctypes
import math
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

MEMINFO, OWN_GROUP, GROUPS = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def cpu_count() -> int:
    """Number of processors: those that the process may run on, but no more than its CPU quota or OMP_NUM_THREADS."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([allowed, *_quotas(), *_omp_num_threads()])


def free_memory() -> int:
    """Bytes that can be allocated without swapping and without running into a memory limit."""
    free = _free_of_the_system()
    for group in _groups():
        with suppress(OSError, ValueError):  # "max" means no limit
            limit, used = (int((group / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
            free = min(free, max(0, limit - used + _reclaimable(group)))
    return free


def readable(n: float) -> str:
    """n bytes in words, such as "1.5 MiB"."""
    if n < 1024:
        return f"{n:.0f} byte{'s' if n != 1 else ''}"
    power = next((p for p in (1, 2) if n < 1023.95 * 1024**p), 3)  # 1023.95 would be shown as 1,024.0
    return f"{n / 1024**power:,.1f} {('KiB', 'MiB', 'GiB')[power - 1]}"


def _free_of_the_system() -> int:
    if sys.platform == "win32":
        status = (ctypes.c_uint64 * 8)(64)  # a MEMORYSTATUSEX, which begins with its length in bytes
        ctypes.windll.kernel32.GlobalMemoryStatusEx(status)
        _, _, memory, _, promised, *_ = status  # what is free, and what the system still promises to find
        return min(memory, promised)
    with suppress(OSError, StopIteration):
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2  # macOS says only how much there is


def _reclaimable(group: Path) -> int:
    """Bytes of the group's file cache that the system can reclaim."""
    lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))


def _omp_num_threads() -> Iterator[int]:
    """OMP_NUM_THREADS, OpenMP's limit. joblib sets it in its processes, so that they do not use each other's share."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # the others are for nested regions
    if first.isdecimal() and int(first):
        yield int(first)


@cache
def _quotas() -> tuple[int, ...]:
    """The CPU quota of each group that has one, in processors, rounded up."""
    found = []
    for group in _groups():
        with suppress(OSError, ValueError):
            quota, period = (int(word) for word in (group / "cpu.max").read_text(encoding="ascii").split())
            found.append(max(1, math.ceil(quota / period)))
    return tuple(found)


@cache
def _groups() -> tuple[Path, ...]:
    """The process's control group and its parents, whose limits apply to it, too."""
    with suppress(OSError, StopIteration):
        lines = OWN_GROUP.read_text(encoding="utf-8").splitlines()
        own = Path(next(line.removeprefix("0::") for line in lines if line.startswith("0::")))
        return tuple(GROUPS / folder.relative_to("/") for folder in (own, *own.parents))
    return ()
