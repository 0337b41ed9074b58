"""Many trainings in one process leave no memory, thread or file behind; see soak.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory and handles are read from Linux's /proc")
def test_memory_threads_and_handles_stay_as_they_are(tmp_path, pytestconfig):
    n = 2000 if pytestconfig.getoption("thorough") else 72
    words = [sys.executable, "-W", "error", Path(__file__).with_name("soak.py"), tmp_path, str(n)]
    ended = subprocess.run(words, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    held = json.loads(ended.stdout)
    print(held)
    assert held["trainings"] == n
    assert held["most"] < 1.05 * held["resident bytes after a tenth"]
    assert held["threads and handles at the end"] == held["threads and handles after a tenth"]
