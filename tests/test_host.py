"""Processors and memory if a container has less than its machine: on files in the format of the Linux kernel."""

import ctypes
import os
import sys
from types import SimpleNamespace

import pytest

from fcgpu import host

GIB = 1 << 30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 8 processors and 16 GiB; `machine(files)` writes the files of its control groups."""
    monkeypatch.setattr(sys, "platform", "linux")
    for name, text in {
        "MEMINFO": "MemFree: 1 kB\nMemAvailable: 16777216 kB\n",
        "OWN_GROUP": "0::/a/b\n",
    }.items():
        path = tmp_path / name
        path.write_text(text, encoding="ascii")
        monkeypatch.setattr(host, name, path)
    monkeypatch.setattr(host, "GROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def forget():
        host._quotas.cache_clear()
        host._groups.cache_clear()

    forget()

    def group(**files):
        (tmp_path / "a/b").mkdir(parents=True, exist_ok=True)
        for place, text in files.items():
            folder, _, name = place.rpartition("__")
            (tmp_path / folder.replace("_", "/") / name.replace("_", ".", 1)).write_text(text, encoding="ascii")

    yield group
    forget()


def test_without_limits_it_is_the_machine(machine):
    machine(a_b__cpu_max="max 100000\n", a_b__memory_max="max\n", a_b__memory_current="5\n")
    assert (host.cpu_count(), host.free_memory()) == (8, 16 * GIB)


@pytest.mark.parametrize(("quota", "cores"), [(200_000, 2), (150_000, 2), (50_000, 1), (1_600_000, 8)])
def test_a_share_of_processors_counts_as_so_many(quota, cores, machine):
    machine(a_b__cpu_max=f"{quota} 100000\n")
    assert host.cpu_count() == cores


@pytest.mark.parametrize(
    ("limit", "cores"), [("3", 3), (" 2,1 ", 2), ("9", 8), ("0", 8), ("", 8), ("-1", 8), ("two", 8), ("1.5", 8)]
)
def test_no_more_threads_than_openmp_may_use(limit, cores, machine, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", limit)
    assert host.cpu_count() == cores


def test_the_tightest_of_the_groups_holds_and_files_that_were_read_are_free(machine):
    stat = f"anon 1\ninactive_file {GIB}\nactive_file 7\n"
    machine(a_b__memory_max="max\n", a_b__memory_current="1\n", a_b__memory_stat="", a__cpu_max="100000 100000\n")
    machine(a__memory_max=f"{4 * GIB}\n", a__memory_current=f"{2 * GIB}\n", a__memory_stat=stat)
    assert (host.cpu_count(), host.free_memory()) == (1, 3 * GIB)
    machine(a__memory_current=f"{6 * GIB}\n")
    assert host.free_memory() == 0


@pytest.fixture
def elsewhere(machine, monkeypatch, tmp_path):
    """Another system than Linux."""
    for name in ("MEMINFO", "OWN_GROUP"):
        monkeypatch.setattr(host, name, tmp_path / "none")
    monkeypatch.delattr(os, "sched_getaffinity")


def test_what_the_system_does_not_say_is_guessed(elsewhere, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": GIB >> 12, "SC_PAGE_SIZE": 1 << 14}.get, raising=False)
    assert (host.cpu_count(), host.free_memory()) == (1, 2 * GIB)


class MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX, as Windows documents it."""

    _fields_ = [
        *((name, ctypes.c_uint32) for name in ("length", "load")),
        *((name, ctypes.c_uint64) for name in ("total", "free", "pages", "free_pages", "own", "free_own", "extended")),
    ]


@pytest.mark.parametrize(("free", "promised"), [(3, 9), (9, 3)])
def test_windows_tells_the_free_memory_and_what_it_promises_to_find(elsewhere, monkeypatch, free, promised):
    def ask(buffer):
        status = MemoryStatus.from_buffer(buffer)
        assert (status.length, status.load) == (ctypes.sizeof(MemoryStatus), 0)
        status.load, status.total, status.free, status.pages, status.free_pages = 50, 16 * GIB, free, 32 * GIB, promised
        return 1

    monkeypatch.setattr(sys, "platform", "win32")
    windows = SimpleNamespace(kernel32=SimpleNamespace(GlobalMemoryStatusEx=ask))
    monkeypatch.setattr(ctypes, "windll", windows, raising=False)
    assert host.free_memory() == 3
