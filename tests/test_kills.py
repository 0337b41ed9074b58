"""Runs that are killed, or whose calls fail, at every system call of a save, and at random times; see killed.py."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork and signals")


def tried(seed, kills, refusals, times):
    memory = Path("/dev/shm")  # on a disk every file would wait
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        words = [sys.executable, Path(__file__).with_name("killed.py"), folder, seed, kills, refusals, times]
        ended = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    counts = json.loads(ended.stdout)
    print(counts)
    return counts


@pytest.mark.slow
def test_a_killed_or_refused_save_loses_nothing(pytestconfig):
    thorough = pytestconfig.getoption("thorough")
    counts = tried(1, 1 if thorough else 2, 1 if thorough else 40, 200 if thorough else 5)
    assert counts["kills"] >= 200
    assert counts["random kills"] >= (200 if thorough else 5)
